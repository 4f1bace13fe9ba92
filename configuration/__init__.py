"""Settings, and what is made from them: breakers, Redis clients, the orchestrator's client."""
