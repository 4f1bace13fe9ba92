"""Cancel the open orders of every account at once, before anything slow is even imported: the first sweep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from breaker.orders import Order, Position, PositionKey, PositionSide
from brokers.cancel_by_id import cancel_each
from brokers.coverage import Coverage
from brokers.protective import can_wait, protective_orders
from brokers.protocol import BROKEN_OFF, Broker, BrokerError, CancelOutcome, CancelResult, is_interrupted

CancelPolicy = Literal["auto", "all", "protective_last"]
"""Which orders go at once: all of them, or all but those that protect a position until it is closed."""
LOOK_WITHIN = 1.0
"""Seconds that the book may take to be read before everything is cancelled unseen, where everything is covered."""


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What one account's venue answered. `accepted` cancels are not gone yet, only asked to go."""

    account: str
    accepted: int
    refused: int
    problem: str = ""
    orders: tuple[Mapping[str, Any], ...] | None = None
    """The orders that were open before it; None when they could not be read in time."""
    open_orders: int = 0
    """How many these were, with those that can't be read; the legs of one order count once."""
    protective: int = 0
    """Of these, how many stay until their position is about to be closed."""
    positions: tuple[Mapping[str, Any], ...] = ()
    """The positions as they were then, with the market's price; none where they could not be read in time."""
    unseen: tuple[str, ...] = ()
    """The venue's ids of the orders that were asked to go unseen, where they could not be read in time."""


@dataclass(slots=True)
class _Seen:
    orders: Sequence[Order] | None = None
    order_rows: tuple[Mapping[str, Any], ...] | None = None
    position_rows: tuple[Mapping[str, Any], ...] = ()
    unreadable: Sequence[str] = field(default_factory=tuple)
    protective: Sequence[Order] = ()
    closes: Sequence[Order] = ()


async def first_sweep(
    brokers: Iterable[Broker],
    timeout: float,
    policy: CancelPolicy = "auto",
    is_close: Callable[[Order], bool] = lambda _: False,
    *,
    coverage: Coverage,
) -> list[SweepResult]:
    """Ask every account's venue to cancel what is covered, all at once; what fails is told in its `problem`.

    With protective orders in the book only the others are cancelled, if `policy` and the rate limit allow that; so they
    are beside closes that an earlier kill switch of the incident has at work, as `is_close` tells: without them their
    positions would have neither stop nor close. A book that can't be read within `LOOK_WITHIN` is cancelled whole, if
    whole accounts are covered, and left alone otherwise.
    """
    return list(
        await asyncio.gather(*(sweep_account(broker, timeout, policy, is_close, coverage) for broker in brokers))
    )


async def sweep_account(
    broker: Broker, timeout: float, policy: CancelPolicy, is_close: Callable[[Order], bool], coverage: Coverage
) -> SweepResult:
    """One account's part of the first sweep, within `timeout` seconds. Never raises."""
    seen = _Seen()
    problem = ""
    results: Sequence[CancelResult] = ()
    try:
        async with asyncio.timeout(timeout):
            await _look(broker, policy, is_close, seen, coverage)
            if seen.orders is None and not coverage.whole_accounts:
                problem = f"{broker.name}: not read within {LOOK_WITHIN:g} s; nothing is cancelled unseen for a part"
            else:
                results = _answers(await _cancel(broker, seen, coverage))
    except TimeoutError:
        problem = f"{broker.name}: no answer to the first sweep within {timeout:g} s"
    except BrokerError as error:
        problem = str(error)
    except Exception as error:  # a mistake in one account's adapter must not stop the others
        problem = f"{broker.name}: {type(error).__name__}: {error}"
    except asyncio.CancelledError:  # the adapter's own, as of a connection that is closed beneath it; or ours
        if is_interrupted():
            raise
        problem = f"{broker.name}: {BROKEN_OFF}"
    return SweepResult(
        broker.name,
        accepted=sum(result.outcome is CancelOutcome.ACCEPTED for result in results),
        refused=sum(result.outcome in (CancelOutcome.REFUSED, CancelOutcome.UNKNOWN) for result in results),
        problem=problem,
        orders=seen.order_rows,
        open_orders=len({order.cancel_id for order in seen.orders or ()} | {*seen.unreadable}),
        protective=len(seen.protective),
        positions=seen.position_rows,
        unseen=tuple(result.order_id for result in results) if seen.orders is None else (),
    )


def _answers(results: Sequence[CancelResult]) -> Sequence[CancelResult]:
    """Raises TypeError for anything else, as an adapter of somebody else's may give."""
    if wrong := [result for result in results if not isinstance(result, CancelResult)]:
        raise TypeError(f"its adapter answered a cancel by {type(wrong[0]).__name__}, not CancelResult")
    return results


async def _look(
    broker: Broker, policy: CancelPolicy, is_close: Callable[[Order], bool], seen: _Seen, coverage: Coverage
) -> None:
    try:
        async with asyncio.timeout(LOOK_WITHIN):
            orders, positions = await asyncio.gather(broker.open_orders(), broker.positions())
    except (TimeoutError, BrokerError):
        return  # cancelled unseen; the procedure that follows reads again
    covered, held = coverage.of_orders(orders), coverage.of_positions(positions)
    seen.position_rows = tuple(position_row(position) for position in held.items)
    seen.order_rows, seen.orders = tuple(order_row(order) for order in covered.items), covered.items
    seen.unreadable = tuple(item.id for item in covered.unreadable if item.id and coverage.covers_unread(item))
    closes = [order for order in covered.items if is_close(order)]
    protective = protective_orders([order for order in covered.items if order not in closes], held.items)
    limit = broker.capabilities.requests_per_minute
    others = len(covered.items) - len(protective) - len(closes)
    if policy == "protective_last" or (policy == "auto" and can_wait(len(protective), others, limit)):
        seen.protective, seen.closes = protective, closes
    elif not coverage.whole_accounts or can_wait(0, len(covered.items) - len(closes), limit):
        seen.closes = closes


async def _cancel(broker: Broker, seen: _Seen, coverage: Coverage) -> Sequence[CancelResult]:
    if not seen.protective and not seen.closes and coverage.whole_accounts:
        return [] if seen.orders == () and not seen.unreadable else await broker.cancel_all()
    kept = {order.cancel_id for order in (*seen.protective, *seen.closes)}
    asked = {order.cancel_id for order in seen.orders or () if order.cancel_id not in kept} | {*seen.unreadable}
    return await cancel_each(broker, sorted(asked))


def order_row(order: Order) -> dict[str, Any]:
    """An order as it is kept on record: what, how much, at which price, and whose by its client order id."""
    return {
        "id": order.id,
        "client_order_id": order.client_order_id,
        "symbol": order.symbol,
        "side": order.side.value,
        **_position_side(order),
        "quantity": f"{order.quantity:f}",
        "filled": f"{order.filled_quantity:f}",
        "type": order.type.value,
        "limit_price": None if order.limit_price is None else f"{order.limit_price:f}",
        "stop_price": None if order.stop_price is None else f"{order.stop_price:f}",
        "status": order.status.value,
    }


def position_row(position: Position) -> dict[str, Any]:
    """A position as it is kept: what, how much, what it was entered at, and what the market gives for it."""
    price = position.market_price
    return {
        "symbol": position.symbol,
        **_position_side(position),
        "quantity": f"{position.quantity:f}",
        "average_price": f"{position.average_entry_price:f}" if position.average_entry_price else None,
        "price": None if price is None else f"{price:f}",
        "multiplier": f"{position.instrument.multiplier:f}",
        **({"inverse": True} if position.instrument.inverse else {}),
    }


def _position_side(item: Order | Position) -> dict[str, str]:
    """Only in hedge mode: what has none is kept as it always was."""
    return {} if item.position_side is None else {"position_side": item.position_side.value}


def row_key(row: Mapping[str, Any]) -> PositionKey:
    """The position that a row of an order or a position is of."""
    side = row.get("position_side")
    return PositionKey(str(row.get("symbol")), PositionSide(side) if side in set(PositionSide) else None)
