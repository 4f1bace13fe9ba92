"""Describe one gate as a health page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from breaker.gate.decision import Reason
from breaker.gate.lease import ScopeState


@dataclass(frozen=True, slots=True)
class GateStatus:
    """What a health page shows of one gate.

    Attributes:
        is_open: Whether any order passes at all that adds risk without limits.
        reason: Why it is open or not.
        sentence: The same for people.
        backend: `thread`, `drain` or `shm`.
        scopes: What each watched scope's state means to this gate.
        epochs: Each watched scope's epoch; None where its state has none.
        lease_left: Seconds for which what is known may still be acted on; negative once it may not.
        connections: How often it has connected to Redis, or mapped the sidecar's file; more than one means again.
        problem: What is wrong at the moment, as a sentence; None when nothing is.
        quiet_fraction: In a quiet period, the fraction of normal size and rate that it allows now, from 0 to 1; of
            several, the least. None in none.

    Example:
        >>> status = gate.status()
        >>> status.is_open, status.scopes["global"], status.problem
        (True, <ScopeState.OPEN: 'OPEN'>, None)
        >>> 0 < status.lease_left <= 0.2
        True
    """

    is_open: bool
    reason: Reason
    sentence: str
    backend: str
    scopes: Mapping[str, ScopeState]
    epochs: Mapping[str, int | None]
    lease_left: float
    connections: int
    problem: str | None
    quiet_fraction: Decimal | None = None
