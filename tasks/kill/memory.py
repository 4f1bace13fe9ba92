"""Remember of each position what one run has sent, and what became of it. Pure: every change makes a new value."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache

from breaker.orders import ZERO, Order, OrderStatus, Position
from brokers.protocol import ALPACA_IDS, SHORTEST_CLIENT_ORDER_ID, ClientOrderIds, Refusal
from tasks.kill.ladder import Pace

COARSEST = 3
"""Of four significant digits of a price one is left then."""
ATTEMPT_DIGITS = 6
"""Room that a name keeps for the number of its attempt."""
HEX = "0123456789abcdef"
SHORTEST_DIGEST = SHORTEST_CLIENT_ORDER_ID - ATTEMPT_DIGITS - 1


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


def client_order_id(incident_id: str, key: str, attempt: int, ids: ClientOrderIds = ALPACA_IDS) -> str:
    """The same for the same attempt to close the position of this key, whichever process makes it.

    Readable where the venue takes that; else what stands before the attempt is a digest, of as many characters as there
    is room for. Where the venue knows no such ids it is a name for us alone.
    """
    named = _named(incident_id, key)
    fits = len(named) + 1 + ATTEMPT_DIGITS <= ids.longest and {*named, "-"} <= {*ids.alphabet}
    if fits or not ids.longest:
        return f"{named}-{attempt}"
    hexadecimal, upper, decimal = _digests(named)
    digest = hexadecimal if {*HEX} <= {*ids.alphabet} else upper if {*HEX.upper()} <= {*ids.alphabet} else decimal
    if "-" in ids.alphabet:
        return f"{digest[: ids.longest - 1 - ATTEMPT_DIGITS]}-{attempt}"
    return f"{digest[: ids.longest - ATTEMPT_DIGITS]}{attempt:0{ATTEMPT_DIGITS}d}"


def attempt_of(order: Order, incident_id: str) -> int | None:
    """Which attempt of this incident's kill switch the order is, None if it is somebody else's."""
    return attempt_named(order.client_order_id, incident_id, order.key)


def attempt_named(client_order_id: str, incident_id: str, key: str) -> int | None:
    """Which attempt to close the position of this key has that name, in whatever form a venue takes it."""
    head, hyphen, number = client_order_id.rpartition("-")
    if not hyphen:
        head, number = client_order_id[:-ATTEMPT_DIGITS], client_order_id[-ATTEMPT_DIGITS:]
    if not (number.isascii() and number.isdecimal()):
        return None
    named = _named(incident_id, key)
    if head == named:
        return int(number)
    hashed = len(head) >= SHORTEST_DIGEST and any(digest.startswith(head) for digest in _digests(named))
    return int(number) if hashed else None


def _named(incident_id: str, key: str) -> str:
    return f"{incident_id}-{key}"


@lru_cache(maxsize=4_096)
def _digests(named: str) -> tuple[str, str, str]:
    """In small letters, in capitals, and in the ten digits alone."""
    digest = hashlib.sha256(named.encode()).hexdigest()
    return digest, digest.upper(), f"{int(digest, 16):078d}"


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
    """Whether the venue has the close is not known.

    The same attempt is sent again: at once where the venue can take it only once, else when it has been looked for.
    """
    return replace(memory, last_close=close_id, sent_against=memory.quantity, ended_at=None, reason=reason)


def untried(memory: PositionMemory, now: float) -> PositionMemory:
    """A close could not be sent for want of time or requests: what was never tried is not stuck."""
    return memory if memory.sent_at is not None or memory.refusals else replace(memory, changed_at=now)


def taken_after_all(memory: PositionMemory) -> PositionMemory:
    """The venue turns out to have the close whose answer was lost: the next one is another attempt."""
    return replace(memory, attempt=memory.attempt + 1)


def may_close_again(
    memory: PositionMemory, last: Order | None, now: float, pace: Pace, *, filled: Decimal | None = None
) -> tuple[PositionMemory, bool]:
    """Whether the position that is shown can be believed now that the last close is no longer among the open orders.

    Args:
        last: that close as the venue knows it; None when it doesn't (yet).
        filled: how much of it the venue's list of fills shows, where the order itself can't be had.
    """
    if last is not None and last.status.is_open:
        return memory, False
    ended_at = now if memory.ended_at is None else memory.ended_at
    memory = replace(memory, ended_at=ended_at)
    filled = filled if last is None else last.filled_quantity
    unseen = filled is None or (filled > 0 and memory.quantity > memory.sent_against - filled)
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

    Once it is tried as the same kind in whole units, or a few times at a price in coarser steps, if that is the reason;
    nothing is wrong with its kind either where there is nothing left that it could reduce.
    """
    whole_units = memory.whole_units or refusal is Refusal.FRACTION
    coarser = min(memory.coarser + (refusal is Refusal.PRICE_STEP), COARSEST)
    same_kind = whole_units != memory.whole_units or coarser != memory.coarser or refusal is Refusal.NOTHING_LEFT
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
    if not newest.client_order_id:  # a venue that knows none: what is remembered of it goes by a name of ours
        return memory
    memory = replace(memory, attempt=max(memory.attempt, attempt_of(newest, incident_id) or 0))
    if memory.last_close == newest.client_order_id:
        return memory
    before = memory.quantity + newest.filled_quantity
    return replace(memory, last_close=newest.client_order_id, sent_against=before, ended_at=None)
