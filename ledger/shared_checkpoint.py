"""Keep the newest checkpoint in Redis too, so that it outlives the directory with ledger and checkpoints.

An empty ledger, or one that was put back from an older copy, is told by it apart from one that has always been so.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING

from breaker.deadline_client import DeadlineClient
from breaker.requests import Request
from ledger.checkpoint import Checkpoint
from ledger.errors import ExportUnreadable
from ledger.location import place_of

if TYPE_CHECKING:
    from redis import Redis

    from ledger.ledger import Ledger

KEY = "circuit_breaker:ledger_checkpoints"
"""A hash: the checkpoint of each ledger by where that is."""


class SharedCheckpoint:
    """The newest checkpoint of one ledger, in the Redis of the breakers. Its methods raise what a breaker's do."""

    def __init__(self, redis: Redis, ledger: Ledger, timeout: float) -> None:
        self._redis, self._timeout = redis, timeout
        self._field = place_of(ledger)

    def read(self) -> Checkpoint | None:
        """None where there is none, or what is there is no checkpoint."""
        raw = self._ask(f"read {KEY}", "HGET", KEY, self._field)
        try:
            return Checkpoint.parse(raw.decode("utf-8", "replace")) if isinstance(raw, bytes) else None
        except ExportUnreadable:
            return None

    def write(self, checkpoint: Checkpoint) -> None:
        self._ask(f"write {KEY}", "HSET", KEY, self._field, json.dumps(asdict(checkpoint)))

    def forget(self) -> None:
        self._ask(f"take a field out of {KEY}", "HDEL", KEY, self._field)

    def _ask(self, doing: str, *command: str) -> object:
        with closing(DeadlineClient(self._redis, self._timeout)) as client:
            return client.execute(Request(doing, (command,)))[0]
