"""Remember of each position what one run has sent, and what became of it. Pure: every change makes a new value."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from decimal import Decimal

from breaker.orders import ZERO, Order, OrderStatus, Position
from brokers.protocol import Refusal
from tasks.kill.ladder import Pace

COARSEST = 3
"""Of four significant digits of a price one is left then."""
LONGEST_CLIENT_ORDER_ID = 128
"""Alpaca, orders: a client order id has at most that many characters."""


@dataclass(frozen=True, slots=True)
class PositionMemory:
    """What one run remembers of a position between its rounds; times are the run's monotonic seconds."""

    changed_at: float
    """When the position last became smaller, or its symbol turned up in the book: the clock of being stuck."""
    quantity: Decimal = ZERO
    attempt: int = 0
    """The highest attempt whose client order id the venue is known to have."""
    rung: int = 0
    sent_at: float | None = None
    last_close: str = ""
    """Client order id of the last close that the venue took, until it is known what became of it."""
    sent_against: Decimal = ZERO
    """|position| when that close was sent."""
    ended_at: float | None = None
    """When that close was first seen to have ended."""
    excess: Decimal | None = None
    """What our working close had left when it was more than the position, until a reading in which it is not."""
    refusals: int = 0
    retry_at: float = 0.0
    reason: str = ""
    """The venue's last refusal, or what the last close failed to do."""
    placed_since: frozenset[str] = frozenset()
    """Other people's orders that were not there at the start, but placed while the book was being flattened."""
    asked_since: float | None = None
    """Since when there has been an order that was asked to go, the same or one after another."""
    whole_units: bool = False
    """The venue has refused a fraction outside the session: whole units go by themselves, the fraction at the open."""
    coarser: int = 0
    """How often the venue has refused a limit price as not in whole steps: so many times are ours tenfold."""
    dust: bool = False
    """The venue has refused the whole position as less than its minimum."""


def client_order_id(incident_id: str, key: str, attempt: int) -> str:
    """The same for the same attempt to close the position of this key, whichever process makes it."""
    return f"{_prefix(incident_id, key)}-{attempt}"


def attempt_of(order: Order, incident_id: str) -> int | None:
    """Which attempt of this incident's kill switch the order is, None if it is somebody else's."""
    prefix, _, number = order.client_order_id.rpartition("-")
    ours = prefix == _prefix(incident_id, order.key) and number.isascii() and number.isdecimal()
    return int(number) if ours else None


def _prefix(incident_id: str, key: str) -> str:
    readable = f"{incident_id}-{key}"
    if len(readable) + len("-999999") <= LONGEST_CLIENT_ORDER_ID:
        return readable
    return hashlib.sha256(readable.encode()).hexdigest()


def sent(memory: PositionMemory, close_id: str, now: float) -> PositionMemory:
    """The venue has the close with this client order id; if another process sent it first, that is the same."""
    return replace(
        memory,
        attempt=memory.attempt + 1,
        sent_at=now,
        last_close=close_id,
        sent_against=memory.quantity,
        ended_at=None,
    )


def unanswered(memory: PositionMemory, close_id: str, reason: str) -> PositionMemory:
    """Whether the venue has the close is not known: the same attempt is sent again, which it can take only once."""
    return replace(memory, last_close=close_id, sent_against=memory.quantity, ended_at=None, reason=reason)


def untried(memory: PositionMemory, now: float) -> PositionMemory:
    """A close could not be sent for want of time or requests: what was never tried is not stuck."""
    return memory if memory.sent_at is not None or memory.refusals else replace(memory, changed_at=now)


def may_close_again(memory: PositionMemory, last: Order | None, now: float, pace: Pace) -> tuple[PositionMemory, bool]:
    """Whether the position that is shown can be believed now that the last close is no longer among the open orders.

    Args:
        last: that close as the venue knows it; None when it doesn't (yet).
    """
    if last is not None and last.status.is_open:
        return memory, False
    ended_at = now if memory.ended_at is None else memory.ended_at
    memory = replace(memory, ended_at=ended_at)
    unseen = last is None or (last.filled_quantity > 0 and memory.quantity > memory.sent_against - last.filled_quantity)
    if unseen and now - ended_at < pace.position_lag:
        return memory, False
    memory = replace(memory, last_close="", ended_at=None)
    if last is not None and last.status in (OrderStatus.REJECTED, OrderStatus.EXPIRED) and last.filled_quantity == 0:
        return refused(memory, f"the venue took the close and then called it {last.status}", now, pace), False
    return memory, True


def refused(
    memory: PositionMemory,
    reason: str,
    now: float,
    pace: Pace,
    refusal: Refusal = Refusal.OTHER,
    quantity: Decimal | None = None,
) -> PositionMemory:
    """The venue refused a close of `quantity`: wait longer each time, and try another kind of order.

    Once it is tried as the same kind in whole units, or a few times at a price in coarser steps, if that is the reason.
    """
    whole_units = memory.whole_units or refusal is Refusal.FRACTION
    coarser = min(memory.coarser + (refusal is Refusal.PRICE_STEP), COARSEST)
    same_kind = whole_units != memory.whole_units or coarser != memory.coarser
    return replace(
        memory,
        refusals=memory.refusals + 1,
        retry_at=now + min(pace.retry_backoff * 2**memory.refusals, pace.retry_backoff_max),
        rung=memory.rung + (not same_kind),
        reason=reason,
        whole_units=whole_units,
        coarser=coarser,
        dust=refusal is Refusal.BELOW_MINIMUM and quantity == memory.quantity,
    )


def remember(memory: PositionMemory | None, position: Position | None, now: float) -> PositionMemory:
    quantity = abs(position.quantity) if position else ZERO
    if memory is None:
        return PositionMemory(changed_at=now, quantity=quantity)
    if quantity < memory.quantity:
        return replace(memory, changed_at=now, quantity=quantity, refusals=0)
    if quantity > memory.quantity:  # somebody's fill, also one that has turned it: there is as much to do as at first
        return replace(memory, changed_at=now, quantity=quantity, dust=False)
    return memory


def gone(memory: PositionMemory, now: float) -> PositionMemory:
    """A position that is not in the book. If it comes back its closes go on being counted, and its time begins anew."""
    ended_at = now if memory.ended_at is None else memory.ended_at
    return replace(
        memory,
        changed_at=now,
        quantity=ZERO,
        ended_at=ended_at,
        rung=0,
        refusals=0,
        retry_at=0.0,
        reason="",
        excess=None,
        asked_since=None,
        dust=False,
    )


def take_over(memory: PositionMemory, ours: list[Order], incident_id: str) -> PositionMemory:
    """Closes at work that an earlier run, another process or a lost answer made are counted like those of this run."""
    if not ours:
        return memory
    newest = max(ours, key=lambda order: attempt_of(order, incident_id) or 0)
    memory = replace(memory, attempt=max(memory.attempt, attempt_of(newest, incident_id) or 0))
    if memory.last_close == newest.client_order_id:
        return memory
    before = memory.quantity + newest.filled_quantity
    return replace(memory, last_close=newest.client_order_id, sent_against=before, ended_at=None)
