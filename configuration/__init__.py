"""Read the settings, and make from them breakers, Redis clients and the orchestrator's client."""
