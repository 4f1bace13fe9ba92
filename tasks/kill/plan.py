"""Plan what to do next about each symbol of an account that must become flat. Pure: the time is an argument.

The rules that keep a close from making things worse:

- Open orders are read before positions. A close that filled in between then makes the position smaller than what is
  planned for, never larger.
- One close of ours works per symbol. Its client order id is made of incident, symbol and attempt, so that the venue
  itself refuses the second of two processes that send the same attempt.
- A close is at most |position|, less every reducing order that may still fill, and at most what the venue calls
  available. A cancel that is only pending still counts as working.
- Before another close is sent, it is known what became of the last one. A venue's positions may lag behind its fills,
  and a close of what is already closed would open the opposite position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from enum import StrEnum

from breaker.orders import ZERO, MarketClock, Order, OrderStatus, OrderType, Position, Side, TimeInForce
from brokers.protocol import CloseOrder

LONGEST_CLIENT_ORDER_ID = 128
"""Alpaca, orders: a client order id has at most that many characters."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast closes become more aggressive and refusals are retried; seconds, and fractions of the last price."""

    escalate_after: float
    collars: tuple[Decimal, ...]
    retry_backoff: float
    retry_backoff_max: float
    stuck_after: float
    position_lag: float
    """How long the venue's positions may lag behind its fills."""


class Rung(StrEnum):
    """The ladder that a close climbs while it does not fill."""

    MARKET = "market order"
    LIMIT = "marketable limit order"
    EXTENDED_HOURS = "extended-hours limit order"
    QUEUED = "market order queued for the open"


@dataclass(frozen=True, slots=True)
class SymbolMemory:
    """What one run remembers of a symbol between its rounds; times are the run's monotonic seconds."""

    changed_at: float
    """When the position last became smaller, or the symbol turned up in the book: the clock of being stuck."""
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


@dataclass(frozen=True, slots=True)
class Plan:
    cancels: tuple[Order, ...]
    closes: tuple[CloseOrder, ...]
    memory: Mapping[str, SymbolMemory]
    stuck: Mapping[str, str]
    """Symbols that made no progress for `stuck_after` seconds, with the reason."""
    remaining: frozenset[str]
    """Symbols that have an open order or a position."""


def client_order_id(incident_id: str, symbol: str, attempt: int) -> str:
    """The same for the same attempt, whichever process makes it."""
    return f"{_prefix(incident_id, symbol)}-{attempt}"


def attempt_of(order: Order, incident_id: str) -> int | None:
    """Which attempt of this incident's kill switch the order is, None if it is somebody else's."""
    prefix, _, number = order.client_order_id.rpartition("-")
    ours = prefix == _prefix(incident_id, order.symbol) and number.isascii() and number.isdecimal()
    return int(number) if ours else None


def _prefix(incident_id: str, symbol: str) -> str:
    readable = f"{incident_id}-{symbol}"
    if len(readable) + len("-999999") <= LONGEST_CLIENT_ORDER_ID:
        return readable
    return hashlib.sha256(readable.encode()).hexdigest()


def plan_round(
    orders: Sequence[Order],
    positions: Sequence[Position],
    market: MarketClock,
    memory: Mapping[str, SymbolMemory],
    *,
    incident_id: str,
    own_order_ids: frozenset[str],
    orders_at_start: frozenset[str],
    now: float,
    pace: Pace,
    time_is_up: bool = False,
) -> Plan:
    """Decide one round for one account.

    Args:
        orders: the venue's open orders, read before `positions`.
        memory: the last round's; empty in the first one.
        own_order_ids: the venue's ids of closes that a bulk request made for this run.
        orders_at_start: the venue's ids of the orders that were open when the run first looked.
        time_is_up: nothing more will be tried, so that whatever is left is stuck.
    """
    held = {position.symbol: position for position in positions if position.quantity != ZERO}
    working = _by_symbol(orders)
    cancels: list[Order] = []
    closes: list[CloseOrder] = []
    kept = {symbol: _gone(memory[symbol], now) for symbol in memory}
    stuck: dict[str, str] = {}
    for symbol in sorted({*held, *working}):
        position, of_symbol = held.get(symbol), working.get(symbol, [])
        remembered = _remember(memory.get(symbol), position, now)
        ours = [o for o in of_symbol if o.id in own_order_ids or attempt_of(o, incident_id) is not None]
        remembered = _take_over(remembered, ours, incident_id)
        cancels += [
            order for order in of_symbol if order not in ours and order.status is not OrderStatus.PENDING_CANCEL
        ]
        if ours:
            remembered, unwanted = _review(ours, position, market, remembered, now, pace)
            cancels += [order for order in unwanted if order.status is not OrderStatus.PENDING_CANCEL]
        elif position is not None and now >= remembered.retry_at:
            close = _close(position, of_symbol, market, remembered, incident_id, pace)
            if close is not None:
                closes.append(close)
        others = frozenset(order.id for order in of_symbol if order not in ours)
        kept[symbol] = replace(remembered, placed_since=remembered.placed_since | (others - orders_at_start))
        queued = _is_queued(ours, market)
        if queued or time_is_up or now - remembered.changed_at >= pace.stuck_after:
            stuck[symbol] = _reason(kept[symbol], of_symbol, ours, market)
    return Plan(tuple(cancels), tuple(closes), kept, stuck, frozenset({*held, *working}))


def sent(memory: SymbolMemory, close_id: str, now: float) -> SymbolMemory:
    """The venue has the close with this client order id; if another process sent it first, that is the same."""
    return replace(
        memory,
        attempt=memory.attempt + 1,
        sent_at=now,
        last_close=close_id,
        sent_against=memory.quantity,
        ended_at=None,
    )


def unanswered(memory: SymbolMemory, close_id: str, reason: str) -> SymbolMemory:
    """Whether the venue has the close is not known: the same attempt is sent again, which it can take only once."""
    return replace(memory, last_close=close_id, sent_against=memory.quantity, ended_at=None, reason=reason)


def may_close_again(memory: SymbolMemory, last: Order | None, now: float, pace: Pace) -> tuple[SymbolMemory, bool]:
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


def refused(memory: SymbolMemory, reason: str, now: float, pace: Pace) -> SymbolMemory:
    """The venue refused a close: wait longer each time, and try the next kind of order."""
    wait = min(pace.retry_backoff * 2**memory.refusals, pace.retry_backoff_max)
    return replace(memory, refusals=memory.refusals + 1, retry_at=now + wait, rung=memory.rung + 1, reason=reason)


def ladder(
    quantity: Decimal, price: Decimal | None, market: MarketClock, pace: Pace
) -> tuple[tuple[Rung, Decimal], ...]:
    """The kinds of order to try in turn, each with its collar (a fraction of the price).

    Alpaca, extended hours: only limit orders good for the day, no fractions. Otherwise an order waits for the open.
    """
    if market.is_open:
        limits = tuple((Rung.LIMIT, collar) for collar in pace.collars) if price else ()
        return ((Rung.MARKET, ZERO), *limits)
    whole = quantity == quantity.to_integral_value()
    extended = ((Rung.EXTENDED_HOURS, pace.collars[0]),) if price and pace.collars and whole else ()
    return (*extended, (Rung.QUEUED, ZERO))


def limit_price(side: Side, price: Decimal, collar: Decimal) -> Decimal:
    """`price` worsened by `collar`, in whole ticks: a cent from a dollar up, else a hundredth of one (SEC rule 612)."""
    target = price * (1 + collar * side.sign)
    tick = Decimal("0.01") if target >= 1 else Decimal("0.0001")
    rounded = target.quantize(tick, rounding=ROUND_UP if side is Side.BUY else ROUND_DOWN)
    return max(rounded, tick)


def _by_symbol(orders: Iterable[Order]) -> dict[str, list[Order]]:
    working: dict[str, list[Order]] = {}
    for order in orders:
        if order.status.is_open:
            working.setdefault(order.symbol, []).append(order)
    return working


def _remember(memory: SymbolMemory | None, position: Position | None, now: float) -> SymbolMemory:
    quantity = abs(position.quantity) if position else ZERO
    if memory is None:
        return SymbolMemory(changed_at=now, quantity=quantity)
    if quantity < memory.quantity:
        return replace(memory, changed_at=now, quantity=quantity, refusals=0)
    return replace(memory, quantity=quantity)


def _gone(memory: SymbolMemory, now: float) -> SymbolMemory:
    """A symbol that is not in the book. If it comes back its closes go on being counted, and its time begins anew."""
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
    )


def _take_over(memory: SymbolMemory, ours: list[Order], incident_id: str) -> SymbolMemory:
    """Closes at work that an earlier run, another process or a lost answer made are counted like those of this run."""
    if not ours:
        return memory
    newest = max(ours, key=lambda order: attempt_of(order, incident_id) or 0)
    memory = replace(memory, attempt=max(memory.attempt, attempt_of(newest, incident_id) or 0))
    if memory.last_close == newest.client_order_id:
        return memory
    before = memory.quantity + newest.filled_quantity
    return replace(memory, last_close=newest.client_order_id, sent_against=before, ended_at=None)


def _review(
    ours: list[Order], position: Position | None, market: MarketClock, memory: SymbolMemory, now: float, pace: Pace
) -> tuple[SymbolMemory, list[Order]]:
    """A close of ours is working: leave it, or take it back because it is wrong or has stood too long."""
    remaining = sum((order.remaining for order in ours), ZERO)
    if position is not None and any(order.side is not position.closing_side for order in ours):
        return memory, ours
    if remaining > (abs(position.quantity) if position else ZERO):
        # Usually it filled between the two readings. If it did not fill until now, it was too large already then.
        return replace(memory, excess=remaining), ours if memory.excess == remaining else []
    memory = replace(memory, excess=None)
    if position is None or memory.sent_at is None:  # sent by an earlier run or another host: its time begins now
        return replace(memory, sent_at=now), []
    rungs = ladder(abs(position.quantity), position.current_price, market, pace)
    kind, _ = rungs[memory.rung % len(rungs)]
    longest = max(pace.escalate_after, pace.retry_backoff_max)
    patience = min(pace.escalate_after * 2 ** (memory.rung // len(rungs)), longest)
    if kind is Rung.QUEUED or now - memory.sent_at < patience:
        return memory, []
    reason = f"a {kind} of {ours[0].quantity} stood {patience:g} s without filling"
    return replace(memory, rung=memory.rung + 1, reason=reason, sent_at=now), ours


def _close(
    position: Position,
    of_symbol: list[Order],
    market: MarketClock,
    memory: SymbolMemory,
    incident_id: str,
    pace: Pace,
) -> CloseOrder | None:
    reducing = [order for order in of_symbol if order.side is position.closing_side]
    if any(order.remaining <= ZERO for order in reducing):
        return None  # an order for an amount of money: how much of the position it may take is not known
    quantity = min(abs(position.quantity) - sum((order.remaining for order in reducing), ZERO), position.available)
    if quantity <= ZERO:
        return None
    rungs = ladder(quantity, position.current_price, market, pace)
    kind, collar = rungs[memory.rung % len(rungs)]
    limited = kind in (Rung.LIMIT, Rung.EXTENDED_HOURS) and position.current_price is not None
    return CloseOrder(
        symbol=position.symbol,
        side=position.closing_side,
        quantity=quantity,
        client_order_id=client_order_id(incident_id, position.symbol, memory.attempt + 1),
        type=OrderType.LIMIT if limited else OrderType.MARKET,
        limit_price=limit_price(position.closing_side, position.current_price, collar)
        if limited and position.current_price is not None
        else None,
        time_in_force=TimeInForce.DAY,
        extended_hours=kind is Rung.EXTENDED_HOURS,
    )


def _is_queued(ours: list[Order], market: MarketClock) -> bool:
    return not market.is_open and any(order.type is OrderType.MARKET for order in ours)


def _reason(memory: SymbolMemory, of_symbol: list[Order], ours: list[Order], market: MarketClock) -> str:
    """What a person is told about a symbol that cannot be closed now."""
    if _is_queued(ours, market):
        opens = f" at {market.next_open:%Y-%m-%d %H:%M} UTC" if market.next_open else ""
        return f"market closed; a market order for {ours[0].quantity} is queued for the open{opens}"
    others = [order for order in of_symbol if order not in ours]
    if others and memory.placed_since:
        return (
            f"something is still trading: {len(memory.placed_since)} orders were placed since the trip, "
            f"the last as {others[-1].client_order_id}; stop that engine"
        )
    if memory.reason:
        return memory.reason + (f"; a close for {ours[0].quantity} is working" if ours else "")
    return _what_is_seen(memory, others, ours)


def _what_is_seen(memory: SymbolMemory, others: list[Order], ours: list[Order]) -> str:
    """Why nothing moves, where the venue has given no reason."""
    if others:
        words = ", ".join(sorted({order.status.value for order in others}))
        return f"{len(others)} orders are still open at the venue ({words})"
    if ours:
        return f"the venue accepted a close for {ours[0].quantity} but has not filled it"
    if memory.sent_at is not None:
        return "the venue took a close and shows a position again or still; look for an engine that is still trading"
    return "no close could be sent before the time was up"
