"""Hold everything that one scrape knows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.exporter.ledger_counts import Counts
from services.exporter.redis_reading import RedisReading


@dataclass(frozen=True, slots=True)
class LedgerReading:
    """`counts` as far as the ledger could ever be read; `problem` says why not now."""

    counts: Counts | None
    problem: str | None = None
    spooled: int | None = None
    """Records that wait on this host's disk for the ledger."""
    spool_oldest: float | None = None
    """Seconds since the oldest of them was made, by this host's clock; 0 if there is none."""


@dataclass(frozen=True, slots=True)
class ChainReading:
    whole: bool | None = None
    """None until the chain could be walked for the first time."""
    verified_at: float | None = None
    """Unix time of the last walk that came to the end of a whole chain."""
    seq: int | None = None
    """The row up to which the last walk found it whole."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """Everything that one scrape knows."""

    redis: RedisReading
    ledger: LedgerReading
    chain: ChainReading
    checks: Mapping[str, int]
    seconds: float
    pending_exits: Mapping[str, int] | None = None
    """By account; None where they were not read in time."""

    @property
    def ledger_lag(self) -> float | None:
        """Seconds since the oldest transition or record that Redis or this host has and the ledger has not; 0 if it
        has all. None unless both are known."""
        waiting = self.redis.outbox_oldest, self.ledger.spool_oldest
        return None if None in waiting else max(age for age in waiting if age is not None)
