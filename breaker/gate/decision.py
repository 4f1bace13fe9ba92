"""Carry a gate's answer: a `Decision` with a stable reason code, a sentence for people, and a `Permit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

EXPIRED = float("-inf")
"""A deadline that has always passed: what every closed gate shows."""


class Reason(StrEnum):
    """Why an order may or may not pass. The words are part of the interface; new ones may be added.

    Example:
        >>> gate.check(OrderIntent("AAPL", "buy", 10), position=0).reason
        <Reason.OPEN: 'OPEN'>
    """

    OPEN = "OPEN"
    """Allowed: every breaker that concerns the order is open."""
    REDUCES_RISK = "REDUCES_RISK"
    """Allowed although halted or cooling down: the order only brings the position nearer to zero."""
    CANCEL = "CANCEL"
    """Allowed, as always while the gate is not open too: a cancel adds nothing."""
    QUIET_PERIOD = "QUIET_PERIOD"
    """Allowed: within the size and rate of the quiet period."""

    TRIPPED = "TRIPPED"
    """A breaker that concerns the order is tripped, and the order does not only reduce risk."""
    STATE_MISSING = "STATE_MISSING"
    """The breaker's key is gone (a flushed Redis) or was never initialised."""
    STATE_UNREADABLE = "STATE_UNREADABLE"
    """The breaker's key holds garbage, another type or an unknown word."""
    STATE_OUTDATED = "STATE_OUTDATED"
    """The state is older than one this gate has already seen: a stale replica was promoted, or a backup restored."""
    STALE = "STALE"
    """Redis has not confirmed the state within `max_staleness`."""
    BEING_READ = "BEING_READ"
    """Someone has just written the state (or the gate is new), and its reading is under way: milliseconds."""
    NOT_CONNECTED = "NOT_CONNECTED"
    """The gate has no connection to Redis; it goes on trying."""
    NOT_WATCHED = "NOT_WATCHED"
    """The sidecar that this gate reads from misses one of its scopes, or promises less than the gate should."""
    FORKED = "FORKED"
    """This process was forked from the gate's; its connection belongs to the parent."""
    CLOSED = "CLOSED"
    """`Gate.close()` was called."""

    QUIET_SIZE = "QUIET_SIZE"
    """Larger than the fraction of normal size that the quiet period allows now, or no normal size is known."""
    QUIET_RATE = "QUIET_RATE"
    """More orders in the last minute than the quiet period allows now."""
    INVALID_ORDER = "INVALID_ORDER"
    """What was asked about can't be an order: no symbol, side or quantity that makes sense. Refused in every state."""
    PERMIT_EXPIRED = "PERMIT_EXPIRED"
    """Checked again where the order leaves the process: the permit's time has passed, or a breaker has moved on."""


@dataclass(frozen=True, slots=True)
class Permit:
    """What a decision was based on, so that it can be checked again where the order leaves the process.

    Attributes:
        epochs: The watched breakers' epochs by scope; None where a state has none.
        deadline: Seconds on the host's boot-time clock (`breaker.gate.clock.now`); until then the decision may be
            acted on without asking again. For a permit to reduce it is until then that its order counts as working,
            and that it may be sent; infinite for a cancel's.
        reduces: Whether it stands until then whatever happens to the breakers.
        reservation: Under which name its order counts as working, for `Gate.settle`; empty where nothing is reserved.

    Example:
        >>> from breaker.gate import clock
        >>> permit = gate.check(OrderIntent("AAPL", "buy", 10), position=0).permit
        >>> 0 < permit.deadline - clock.now() <= 0.2
        True
    """

    epochs: Mapping[str, int | None]
    deadline: float
    reduces: bool = False
    reservation: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """Yes or no to one order; true when allowed.

    Attributes:
        allowed: Whether the order may be sent.
        reason: Why, as a code that stays the same.
        sentence: Why, for people: what happened, in what state things are, and what can be done.
        permit: What it was based on; None when the order may not be sent.
        scope: The breaker that decided, when it was one in particular.
        deadline: Of the gate's fast path: until then, on `breaker.gate.clock`, the same answer may be given again.

    Example:
        >>> decision = gate.check(OrderIntent("AAPL", "buy", 10), position=0)
        >>> if not decision:
        ...     print(decision.reason, decision.sentence)
    """

    allowed: bool
    reason: Reason
    sentence: str
    permit: Permit | None = None
    scope: str | None = None
    deadline: float = EXPIRED

    def __bool__(self) -> bool:
        return self.allowed

    def covers(self, permit: Permit, now: float) -> bool:
        """Whether this answer, if it is one to every order, lets an earlier permit to add risk stand.

        Args:
            permit: The earlier decision's.
            now: Seconds on `breaker.gate.clock`.

        Returns:
            Whether it holds at `now`, and no breaker has changed in between.
        """
        return (
            now < self.deadline
            and not permit.reduces
            and self.permit is not None
            and permit.epochs == self.permit.epochs
        )


class OrderRefused(Exception):
    """The gate said no to an order given to a guarded function or block; nothing was sent.

    Attributes:
        decision: Says why.

    Example:
        >>> _ = breaker.trip("MANUAL")
        >>> until(lambda: gate.status().reason == "TRIPPED")
        >>> try:
        ...     with gate.guard(OrderIntent("AAPL", "buy", 10)):
        ...         print("never reached")
        ... except OrderRefused as refused:
        ...     print(refused.decision.reason)
        TRIPPED
    """

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.sentence)
        self.decision = decision
