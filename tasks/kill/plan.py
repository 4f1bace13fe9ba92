"""Decide what to do next about each symbol of an account that must become flat. Pure: no I/O, time is an argument.

The rules that keep a close from making things worse:

- Open orders are read before positions. A close that filled in between then makes the position smaller than what is
  planned for, never larger.
- A position is a symbol or, in hedge mode, one of the two that a symbol has there. Each is closed by itself, against
  the orders that are for it and no others.
- One close of ours works per position. Its client order id is made of incident, position and attempt, so that the venue
  itself refuses the second of two processes that send the same attempt. Where a venue doesn't, it is looked for first.
- A close is at most |position|, less every reducing order that may still fill, and at most what the venue calls
  available. A cancel that is only pending still counts as working.
- Before another close is sent, it is known what became of the last one. A venue's positions may lag behind its fills,
  and a close of what is already closed would open the opposite position.
- What can't be read is never guessed: it is cancelled by its id, and its symbol waits for it.
- As much as may cover a short option is let go only when the short has been bought back.
- Protective orders stay until the close of their position is about to be sent, where there is time for that, and only
  some positions at once are without: a kill switch that dies then leaves no more behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import ROUND_DOWN, Decimal

from breaker.instruments import Session
from breaker.orders import (
    ZERO,
    MarketClock,
    Order,
    OrderStatus,
    OrderType,
    Position,
    PositionKey,
    Side,
    TimeInForce,
    Unreadable,
)
from brokers.protective import by_position, protective_of, protective_orders
from brokers.protocol import Capabilities, CloseOrder
from tasks.kill.cover import NOTHING, Cover, covering
from tasks.kill.ladder import Pace, Rung, ladder, limit_price
from tasks.kill.memory import PositionMemory, attempt_of, client_order_id, gone, remember, take_over, untried

Rungs = tuple[tuple[Rung, Decimal], ...]
NO_PRICE = "the venue takes no market orders and gives no price for a limit order: close it there"
LET_GO_AT_ONCE = 8
"""Positions whose protective orders go in one round: as many as are cancelled, and closed, beside each other."""


@dataclass(frozen=True, slots=True)
class Plan:
    cancels: tuple[Order, ...]
    closes: tuple[CloseOrder, ...]
    memory: Mapping[str, PositionMemory]
    stuck: Mapping[str, str]
    """Positions that made no progress for `stuck_after` seconds, or can't be closed now, with the reason.

    By their keys, here and below: the symbol, and in hedge mode the side.
    """
    remaining: frozenset[str]
    """What has an open order or a position; what has no symbol is named by its id. Dust is not among them."""
    dust: Mapping[str, str] = field(default_factory=dict)
    """Positions below the venue's minimum, with the venue's reason."""
    cancel_unread: tuple[Unreadable, ...] = ()
    """Orders that can't be read, to be cancelled by their id."""
    opens_at: Mapping[str, datetime] = field(default_factory=dict)
    """When the session opens that stuck positions wait for, as far as the venue tells."""


def plan_round(
    orders: Sequence[Order],
    positions: Sequence[Position],
    market: MarketClock | None,
    memory: Mapping[str, PositionMemory],
    *,
    incident_id: str,
    able: Capabilities,
    own_order_ids: frozenset[str],
    orders_at_start: frozenset[str],
    now: float,
    pace: Pace,
    protective_last: bool,
    time_is_up: bool = False,
    unreadable: Sequence[Unreadable] = (),
    beside: Sequence[Position] = (),
    unreadable_beside: Sequence[Unreadable] = (),
) -> Plan:
    """Decide one round for one account.

    Args:
        orders: the venue's open orders, read before `positions`.
        market: the venue's session; None when it won't tell. Then what works in any session is tried.
        memory: the last round's; empty in the first one.
        able: what the venue can do.
        own_order_ids: the venue's ids of closes of this run that bear no name of ours.
        orders_at_start: the venue's ids of the orders that were open when the run first looked.
        time_is_up: nothing more will be tried, so that whatever is left is stuck.
        unreadable: what the venue lists and can't be understood.
        protective_last: whether stops and take-profits stay until the close of their position is about to be sent.
        beside: the account's other positions, which stay, and which what is closed here may cover.
        unreadable_beside: the same of what can't be understood.
    """
    held = {position.key: position for position in positions if position.quantity != ZERO}
    working = by_position(orders)
    blocked = {item.symbol: str(item) for item in unreadable if item.symbol}
    covers = covering({p.key: p for p in (*beside, *held.values())}, (*unreadable, *unreadable_beside))
    cancels: list[Order] = []
    closes: list[CloseOrder] = []
    kept = {key: gone(memory[key], now) for key in memory}
    stuck: dict[str, str] = {item.id or item.what: str(item) for item in unreadable if not item.symbol and time_is_up}
    dust: dict[str, str] = {}
    opens_at: dict[str, datetime] = {}
    going: set[str] = {key for key in working if key in memory and _is_going(memory[key], now, pace)}
    for key in sorted({*held, *working, *map(PositionKey, blocked)}):
        position, of_position = held.get(key), list(working.get(key, ()))
        remembered = remember(memory.get(key), position, now)
        ours = [o for o in of_position if o.id in own_order_ids or attempt_of(o, incident_id) is not None]
        others = [order for order in of_position if order not in ours]
        remembered = take_over(remembered, ours, incident_id)
        cover = covers.get(key, NOTHING)
        hindrance = blocked.get(key.symbol) or _held_back(position, cover)
        its_market = market if position is None or position.market is None else position.market
        rungs = () if position is None else _rungs(position, its_market, remembered, pace, able)
        close, unwanted = None, list[Order]()
        closing = not hindrance and not time_is_up and now >= remembered.retry_at
        if ours:
            remembered, unwanted = _review(ours, position, rungs, its_market, remembered, now, pace)
        elif position is not None and closing:
            remembered = _tradable(position, rungs, remembered, able)
            close = _close(position, of_position, rungs, remembered, incident_id, cover.quantity, able)
        closing = closing and bool(rungs)
        # A protective order stays until the close of its position is about to be sent, or works already; while a part
        # of the position must stay, it stays too.
        about_to_close = (closing or bool(ours)) and not cover.quantity
        keep = protective_of(others, position) if protective_last else []
        if keep and about_to_close and not ours and not _takes_turn(key, remembered, going):
            remembered = untried(remembered, now)
        elif about_to_close:
            keep = []
        wanted_gone = [*(order for order in others if order not in keep), *unwanted]
        asked = [order for order in wanted_gone if order.status is not OrderStatus.PENDING_CANCEL]
        cancels += asked
        since = now if remembered.asked_since is None else remembered.asked_since
        remembered = replace(remembered, asked_since=since if asked else None)
        if close is not None and (not asked or now - since >= pace.cancel_settles):
            closes.append(close)
        kept[key] = replace(remembered, placed_since=_placed_since(remembered, others, orders_at_start))
        if _is_dust(remembered, position) and not of_position and position is not None and key.symbol not in blocked:
            dust[key] = f"{abs(position.quantity):f} is dust: {remembered.reason}"
        elif time_is_up or _waits_for_the_open(position, ours, its_market) or _no_progress(remembered, now, pace):
            stuck[key] = (
                hindrance or _kept_protected(keep, cover) or _reason(kept[key], position, of_position, ours, its_market)
            )
            if its_market and its_market.next_open and _waits_for_the_open(position, ours, its_market):
                opens_at[key] = its_market.next_open
    unseen = {item.symbol or item.id or item.what for item in unreadable}
    return Plan(
        cancels=_once(cancels),
        closes=tuple(closes),
        memory=kept,
        stuck=stuck,
        remaining=frozenset({*held, *working, *unseen} - {*dust}),
        dust=dust,
        cancel_unread=tuple(item for item in unreadable if item.id),
        opens_at=opens_at,
    )


def entries(orders: Sequence[Order], positions: Sequence[Position] | None, incident_id: str) -> list[Order]:
    """The orders to cancel before anything is closed: all but closes of this incident and protective orders.

    Where the positions are not known, orders of a kind that protects are taken to do so.
    """
    others = [order for order in orders if attempt_of(order, incident_id) is None]
    protective = {order.id for order in protective_orders(others, positions)}
    return [order for order in others if order.id not in protective]


def _placed_since(memory: PositionMemory, others: Sequence[Order], at_start: frozenset[str]) -> frozenset[str]:
    """With those of the orders that were not there at the start."""
    return memory.placed_since | ({order.id for order in others} - at_start)


def _held_back(position: Position | None, cover: Cover) -> str:
    """Why nothing of the position may go, as all of it may cover a short option; empty where that is not so."""
    covers_all = position is not None and cover.quantity >= abs(position.quantity)
    return cover.why if covers_all else ""


def _kept_protected(keep: Sequence[Order], cover: Cover) -> str:
    """Why what is not needed as a cover stays too: its protective orders hold it, and go only with all of it."""
    return f"{cover.why}; its protective orders stay until then" if keep and cover.quantity else ""


def _takes_turn(key: str, memory: PositionMemory, going: set[str]) -> bool:
    """Whether its protective orders may go beside those that are `going`, which it is among from now on.

    Those that were asked before, and are still there, need no turn again.
    """
    if memory.asked_since is None and len(going) < LET_GO_AT_ONCE:
        going.add(key)
    return key in going or memory.asked_since is not None


def _is_going(memory: PositionMemory, now: float, pace: Pace) -> bool:
    """Whether orders of it were asked to go a moment ago; those that resist hold up nobody else's turn."""
    return memory.asked_since is not None and now - memory.asked_since < pace.cancel_settles


def _once(orders: Sequence[Order]) -> tuple[Order, ...]:
    """One order for each id under which something is cancelled: the legs of an order go together."""
    return tuple({order.cancel_id: order for order in reversed(orders)}.values())[::-1]


def _review(
    ours: list[Order],
    position: Position | None,
    rungs: Rungs,
    market: MarketClock | None,
    memory: PositionMemory,
    now: float,
    pace: Pace,
) -> tuple[PositionMemory, list[Order]]:
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
    if not rungs or _waits_for_the_open(position, ours, market):
        return memory, []
    kind, _ = rungs[memory.rung % len(rungs)]
    longest = max(pace.escalate_after, pace.retry_backoff_max)
    patience = min(pace.escalate_after * 2 ** (memory.rung // len(rungs)), longest)
    if now - memory.sent_at < patience:
        return memory, []
    reason = f"a {kind} of {ours[0].quantity:f} stood {patience:g} s without filling"
    return replace(memory, rung=memory.rung + 1, reason=reason, sent_at=now), ours


def _rungs(
    position: Position, market: MarketClock | None, memory: PositionMemory, pace: Pace, able: Capabilities
) -> Rungs:
    instrument, price = position.instrument, position.current_price
    return ladder(abs(position.quantity), price, market, pace, instrument, able, whole_units=memory.whole_units)


def _tradable(position: Position, rungs: Rungs, memory: PositionMemory, able: Capabilities) -> PositionMemory:
    """What is remembered of it with why nothing of it can be sent, where that is so whatever the venue says."""
    if not position.instrument.quantity(position.quantity):
        return replace(memory, dust=True, reason="it is less than the venue's smallest quantity")
    if not rungs and not able.market_orders and not position.current_price:
        return replace(memory, reason=NO_PRICE)
    return memory


def _is_dust(memory: PositionMemory, position: Position | None) -> bool:
    return memory.dust and position is not None and not _is_plainly_more(position)


def _is_plainly_more(position: Position) -> bool:
    """Whether it is twice the venue's own minima, of quantity and of worth: then a refusal as too little meant
    something else.

    Venues say the same of a quantity that is too large, or not in whole steps (Binance, filter LOT_SIZE). A minimum
    that a venue doesn't tell may be the one that it means (Alpaca: cost basis of an order in crypto).
    """
    told, quantity, price = position.instrument, abs(position.quantity), position.current_price
    worth = None if price is None else told.worth(quantity, price)
    minima = [(quantity, told.minimum_quantity), (worth, told.minimum_notional)]
    if any(least is None for _, least in minima):
        return False
    return all(had >= 2 * least for had, least in minima if had is not None and least is not None)


def _close(
    position: Position,
    of_position: list[Order],
    rungs: Rungs,
    memory: PositionMemory,
    incident_id: str,
    kept: Decimal,
    able: Capabilities,
) -> CloseOrder | None:
    """All of the position but what is `kept`, and but what other orders may still take of it."""
    reducing = [order for order in of_position if order.side is position.closing_side]
    if any(order.by_amount or order.remaining <= ZERO for order in reducing):
        return None  # how much of the position an order for an amount of money may take is not known
    free = abs(position.quantity) - kept - sum((order.remaining for order in reducing), ZERO)
    quantity = position.instrument.quantity(min(free, position.available))
    if quantity <= ZERO or not rungs:
        return None
    kind, collar = rungs[memory.rung % len(rungs)]
    if kind is Rung.NATIVE and quantity != abs(position.quantity):  # it would close all of it
        if len(rungs) == 1:
            return None
        kind, collar = rungs[(memory.rung + 1) % len(rungs)]
    most = position.instrument.maximum_quantity
    if most is not None and kind is not Rung.NATIVE:
        quantity = position.instrument.quantity(min(quantity, most))
    # A venue that takes no fractions at all leaves the rest to be sold by hand; others take it in the session.
    in_none = not able.fractional and position.instrument.session is not Session.ALWAYS
    if memory.whole_units and (kind is Rung.EXTENDED_HOURS or in_none):
        quantity = quantity.to_integral_value(rounding=ROUND_DOWN)
        if not quantity:
            return None
    price = position.current_price if kind in (Rung.LIMIT, Rung.EXTENDED_HOURS) else None
    side = position.closing_side
    return CloseOrder(
        symbol=position.symbol,
        side=side,
        quantity=quantity,
        client_order_id=client_order_id(incident_id, position.key, memory.attempt + 1, able.client_order_ids),
        type=OrderType.MARKET if price is None else OrderType.LIMIT,
        limit_price=None if price is None else _limit(side, price, collar, position, memory),
        time_in_force=TimeInForce.GTC if position.instrument.session is Session.ALWAYS else TimeInForce.DAY,
        extended_hours=kind is Rung.EXTENDED_HOURS,
        position_side=position.position_side,
        reduce_only=able.reduce_only,
        native=kind is Rung.NATIVE,
    )


def _limit(side: Side, price: Decimal, collar: Decimal, position: Position, memory: PositionMemory) -> Decimal:
    return limit_price(side, price, collar, position.instrument, coarser=memory.coarser)


def _no_progress(memory: PositionMemory, now: float, pace: Pace) -> bool:
    return now - memory.changed_at >= pace.stuck_after


def _waits_for_the_open(position: Position | None, ours: list[Order], market: MarketClock | None) -> bool:
    """Nothing more can be done before the instrument's session opens."""
    if position is None or market is None or market.is_open or position.instrument.session is Session.ALWAYS:
        return False
    queued = any(order.type is OrderType.MARKET for order in ours)
    return queued or position.instrument.session is Session.REGULAR


def _reason(
    memory: PositionMemory,
    position: Position | None,
    of_position: list[Order],
    ours: list[Order],
    market: MarketClock | None,
) -> str:
    """What a person is told about a position that cannot be closed now."""
    if _waits_for_the_open(position, ours, market):
        opens = f" at {market.next_open:%Y-%m-%d %H:%M} UTC" if market and market.next_open else ""
        if ours:
            return f"market closed; a market order for {ours[0].quantity:f} is queued for the open{opens}"
        return f"market closed; nothing can be queued for the open{opens}, when it is to be closed"
    others = [order for order in of_position if order not in ours]
    if others and memory.placed_since:
        return (
            f"something is still trading: {len(memory.placed_since)} orders were placed since the trip, "
            f"the last as {others[-1].client_order_id}; stop that engine"
        )
    if memory.reason:
        return memory.reason + (f"; a close for {ours[0].quantity:f} is working" if ours else "")
    return _what_is_seen(memory, position, others, ours)


def _what_is_seen(memory: PositionMemory, position: Position | None, others: list[Order], ours: list[Order]) -> str:
    """Why nothing moves, where the venue has given no reason."""
    if others:
        words = ", ".join(sorted({order.status.value for order in others}))
        which = ", ".join(sorted({order.cancel_id for order in others})[:3])
        count = len({order.cancel_id for order in others})
        return f"{count} orders are still open at the venue ({words}): {which}"
    if ours:
        return f"the venue accepted a close for {ours[0].quantity:f} but has not filled it"
    if position is not None and position.available <= ZERO:
        return "the venue says that nothing of it is available, and lists no order that holds it; ask the venue"
    if memory.sent_at is not None:
        return "the venue took a close and shows a position again or still; look for an engine that is still trading"
    return "no close could be sent before the time was up"
