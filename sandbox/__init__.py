"""Run what stands in for real things: an embedded Redis, a Prefect server and the paper exchange."""
