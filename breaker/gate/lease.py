"""Track what one gate knows and until when it may act on it: pure functions over a small immutable `Lease`.

The lease is what bounds staleness. A heartbeat asks Redis for every watched state; its answer was true at some moment
after the heartbeat was *sent*, so a trip that the answer does not show was executed after that moment too, and the
knowledge may be used until `sent + max_staleness`. Counting from the receipt instead would let an answer that was
held up on the way extend the lease past any bound.

Where Redis can fail over, reading is not enough: an old primary that nobody else talks to any more goes on answering
OPEN. There the heartbeat is a write, and counts only when every replica that could be promoted has acknowledged it
(`replicas`), which no replica does once it has been promoted.

`proofs/models` explores these very functions exhaustively.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from breaker.gate.decision import EXPIRED
from breaker.gate.quiet_period import QuietPeriod
from breaker.keys import GLOBAL


class StoredState(StrEnum):
    """What a scope's key says in Redis, MISSING and UNREADABLE included."""

    OPEN = "OPEN"
    TRIPPED = "TRIPPED"
    QUIET_PERIOD = "QUIET_PERIOD"
    MISSING = "MISSING"
    UNREADABLE = "UNREADABLE"


class ScopeState(StrEnum):
    """What a scope's stored state means to this gate, given what it saw before."""

    OPEN = "OPEN"
    QUIET_PERIOD = "QUIET_PERIOD"
    NEVER_INITIALISED = "NEVER_INITIALISED"
    """A scope other than global that nobody has set up yet does not block."""
    TRIPPED = "TRIPPED"
    MISSING = "MISSING"
    UNREADABLE = "UNREADABLE"
    OUTDATED = "OUTDATED"
    """Older than one seen before: a stale replica was promoted, or a backup restored."""

    @property
    def halts(self) -> bool:
        """Whether only orders that reduce risk pass."""
        return self not in _TRADING

    @property
    def is_clear(self) -> bool:
        """Whether the scope asks nothing of any order."""
        return self in _CLEAR


_CLEAR = frozenset({ScopeState.OPEN, ScopeState.NEVER_INITIALISED})
_TRADING = _CLEAR | {ScopeState.QUIET_PERIOD}
_TRADING_STORED = frozenset({StoredState.OPEN, StoredState.QUIET_PERIOD})


@dataclass(frozen=True, slots=True)
class StateReading:
    """One scope's state as just read. `quiet_period` belongs to a quiet period; one that has run out reads as OPEN."""

    state: StoredState
    epoch: int | None = None
    trip_reason: str | None = None
    quiet_period: QuietPeriod | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class LatestSeen:
    """The newest state ever seen of a scope; a later reading that lets trade must not be older."""

    epoch: int
    halted: bool


@dataclass(frozen=True, slots=True)
class ScopeView:
    """One scope as this gate sees it: the newest reading, and what it means after all that was seen before."""

    scope: str
    state: ScopeState = ScopeState.MISSING
    reading: StateReading = StateReading(StoredState.MISSING)
    latest_seen: LatestSeen | None = None


def observe(view: ScopeView, reading: StateReading) -> ScopeView:
    """The view after one more reading.

    Halting is believed at once, from any source. Trading is believed only from a state that is not behind what was
    seen: after a failover to a stale replica, or with a backup restored, its epoch is lower, or is that of a halt.
    """
    seen = view.latest_seen
    if reading.state is StoredState.MISSING and seen is None:
        absent = ScopeState.MISSING if view.scope == GLOBAL else ScopeState.NEVER_INITIALISED
        return replace(view, state=absent, reading=reading)
    if reading.state in _TRADING_STORED:
        epoch = reading.epoch or 0
        if seen is not None and (epoch < seen.epoch or (epoch == seen.epoch and seen.halted)):
            return replace(view, state=ScopeState.OUTDATED, reading=reading)
        return replace(
            view, state=ScopeState(reading.state), reading=reading, latest_seen=LatestSeen(epoch, halted=False)
        )
    epochs = [-1 if reading.epoch is None else reading.epoch, -1 if seen is None else seen.epoch]
    return replace(
        view, state=ScopeState(reading.state), reading=reading, latest_seen=LatestSeen(max(epochs), halted=True)
    )


@dataclass(frozen=True, slots=True)
class Lease:
    """Everything a gate knows. Times are seconds on one clock that no one sets and that suspension does not stop."""

    max_staleness: float
    views: tuple[ScopeView, ...]
    replicas: int = 0
    """How many replicas have to acknowledge a heartbeat; 0 where Redis never fails over."""
    sent: tuple[float, ...] = ()
    """When each heartbeat in flight was sent, oldest first; `EXPIRED` for one overtaken by an invalidation."""
    deadline: float = EXPIRED
    """Until when `views` may be acted on."""

    @property
    def clear_until(self) -> float:
        """Until when any order may pass unseen; `EXPIRED` unless every scope is clear."""
        return self.deadline if all(view.state.is_clear for view in self.views) else EXPIRED


def heartbeat_sent(lease: Lease, now: float) -> Lease:
    """`now` is read before the first byte leaves."""
    return replace(lease, sent=(*lease.sent, now))


def invalidated(lease: Lease) -> Lease:
    """Someone wrote a watched key: nothing is known until an answer to a heartbeat sent from now on."""
    return replace(lease, sent=(EXPIRED,) * len(lease.sent), deadline=EXPIRED)


def states_read(lease: Lease, readings: tuple[StateReading, ...]) -> Lease:
    """The states, in the order of `views`, that the oldest heartbeat in flight has read. Does not renew the lease."""
    return replace(lease, views=tuple(observe(v, r) for v, r in zip(lease.views, readings, strict=True)))


def heartbeat_confirmed(lease: Lease, replicas: int) -> Lease:
    """The oldest heartbeat in flight has been answered, and acknowledged by `replicas` replicas."""
    sent, *later = lease.sent
    if replicas < lease.replicas:
        return replace(lease, sent=tuple(later))
    return replace(lease, sent=tuple(later), deadline=sent + lease.max_staleness)


def not_believed(lease: Lease) -> Lease:
    """The oldest heartbeat in flight has been answered by a Redis whose word is no ground to open on: it would refuse a
    trip, or may have lost one.
    """
    return replace(lease, sent=lease.sent[1:], deadline=EXPIRED)


def connection_lost(lease: Lease) -> Lease:
    """Answers still in flight will never come, and nothing is known."""
    return replace(lease, sent=(), deadline=EXPIRED)
