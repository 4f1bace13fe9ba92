"""Tell one run of a Redis server from another: a restarted or promoted one may have lost what was acknowledged."""

from __future__ import annotations

COMPARED_KEY = "circuit_breaker:compared_run"
"""Holds the run id of the Redis that was last compared with the ledger. A copy of it, restored or replicated, names
another run than the one that answers from it."""


def run_id_of(info: object) -> str:
    """The run id in Redis's answer to `INFO server`; empty where it says none."""
    lines = info.decode("utf-8", "replace").splitlines() if isinstance(info, bytes) else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("run_id:")), "")
