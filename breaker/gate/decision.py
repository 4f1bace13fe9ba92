"""What a gate answers: a `Decision` with a stable reason code, a sentence for people, and a `Permit` for the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from breaker.orders import Side

EXPIRED = float("-inf")
"""A deadline that has always passed: what every closed gate shows."""


class Reason(StrEnum):
    """Why an order may or may not pass. The words are part of the interface; new ones may be added."""

    OPEN = "OPEN"
    """Allowed: every breaker that concerns the order is open."""
    REDUCES_RISK = "REDUCES_RISK"
    """Allowed although halted or cooling down: the order only brings the position nearer to zero."""
    QUIET_PERIOD = "QUIET_PERIOD"
    """Allowed: within the size and rate of the quiet period."""

    TRIPPED = "TRIPPED"
    STATE_MISSING = "STATE_MISSING"
    """The breaker's key is gone (a flushed Redis) or was never initialised."""
    STATE_UNREADABLE = "STATE_UNREADABLE"
    STATE_OUTDATED = "STATE_OUTDATED"
    """The state is older than one this gate has already seen: a stale replica was promoted, or a backup restored."""
    STALE = "STALE"
    """Redis has not confirmed the state within `max_staleness`."""
    BEING_READ = "BEING_READ"
    """Someone has just written the state (or the gate is new), and its reading is under way: milliseconds."""
    NOT_CONNECTED = "NOT_CONNECTED"
    NOT_WATCHED = "NOT_WATCHED"
    """The sidecar that this gate reads from misses one of its scopes, or promises less than the gate should."""
    FORKED = "FORKED"
    """This process was forked from the gate's; its connection belongs to the parent."""
    CLOSED = "CLOSED"
    """`Gate.close()` was called."""

    QUIET_SIZE = "QUIET_SIZE"
    """Larger than the fraction of normal size that the quiet period allows now, or no normal size is known."""
    QUIET_RATE = "QUIET_RATE"
    INVALID_ORDER = "INVALID_ORDER"
    """The order could not be understood: no symbol, side or quantity that makes sense."""
    PERMIT_EXPIRED = "PERMIT_EXPIRED"
    """Re-checked at the wire: the permit's time has passed or the breaker has moved on since."""


@dataclass(frozen=True, slots=True)
class Permit:
    """What a decision was based on, so that it can be checked again where the order leaves the process.

    `epochs` are the breakers' epochs by scope. `deadline` is in seconds on the host's boot-time clock
    (`breaker.gate.clock.now`): until then the decision may be acted on without asking again. A permit to reduce has
    no deadline: reducing stays allowed, whatever happens to the breaker.
    """

    epochs: Mapping[str, int | None]
    deadline: float


@dataclass(frozen=True, slots=True)
class Decision:
    """Yes or no to one order; true when allowed.

    `deadline` is internal to the gate's fast path: until then the same answer may be given again. The sentence says
    what happened, in what state things are, and what can be done.
    """

    allowed: bool
    reason: Reason
    sentence: str
    permit: Permit | None = None
    scope: str | None = None
    """The breaker that decided, when it was one in particular."""
    deadline: float = EXPIRED

    def __bool__(self) -> bool:
        return self.allowed


class OrderRefused(Exception):
    """The gate said no to an order given to a guarded function; nothing was sent. `decision` says why."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.sentence)
        self.decision = decision


@dataclass(frozen=True, slots=True)
class OrderIntent:
    """The least that a gate needs to know of an order about to be sent. `breaker.orders.Order` does as well.

    An order that does not say which account or strategy it belongs to is held by every account or strategy breaker
    that the gate watches. `normal_quantity` is the size this order would have on an ordinary day; the quiet period
    allows a fraction of it.
    """

    symbol: str
    side: Side | str
    quantity: Decimal | int | str
    account: str | None = None
    strategy: str | None = None
    normal_quantity: Decimal | int | str | None = None
