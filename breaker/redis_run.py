"""Tell one run of a Redis server as a primary from another: a restarted or promoted one may have lost what was
acknowledged.
"""

from __future__ import annotations

COMPARED_KEY = "circuit_breaker:compared_run"
"""Holds the run of the Redis that was last compared with the ledger. A copy of it, restored or replicated, names
another run than the one that answers from it."""


def run_of(info: object) -> str:
    """The run in Redis's answer to `INFO`; empty where it says none.

    Its run id, which a restart changes, and the id of its replication history, which a promotion changes: a primary
    that was a replica meanwhile has the data of another one.
    """
    told = _told(info)
    run_id = told.get("run_id", "")
    return f"{run_id}:{told.get('master_replid', '')}" if run_id else ""


def is_same_run(run: str, replication: object) -> bool:
    """Whether the server of that run, asked on the same connection, still has the history that it had then: by its
    answer to `INFO replication`.
    """
    return run.partition(":")[2] == _told(replication).get("master_replid", "")


def _told(info: object) -> dict[str, str]:
    lines = info.decode("utf-8", "replace").splitlines() if isinstance(info, bytes) else []
    return dict(line.strip().split(":", 1) for line in lines if ":" in line)
