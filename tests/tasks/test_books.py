"""One table of books, as a venue tells them, that the kill switch and the last resort must answer alike.

Each book is Alpaca's own JSON. A planner answers with what it cancels and closes in a first round, and in a second one
in which the same book still stands a little later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest

from breaker.orders import MarketClock
from brokers.alpaca.reading import open_ones, read_orders, read_positions
from brokers.protocol import Capabilities
from tasks.kill.ladder import Pace
from tasks.kill.memory import PositionMemory
from tasks.kill.plan import plan_round

INCIDENT = "0190aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee"
PACE = Pace(
    escalate_after=3,
    collars=(Decimal("0.02"), Decimal("0.05"), Decimal("0.10")),
    retry_backoff=1,
    retry_backoff_max=15,
    stuck_after=30,
    position_lag=5,
    cancel_settles=1,
)
LATER = 1.5
"""Seconds between the two rounds: longer than an order that was asked to go is waited for."""
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Round:
    """What is cancelled, by id, and closed: symbol, side, quantity, type, limit price, time in force, extended."""

    cancels: tuple[str, ...] = ()
    closes: tuple[tuple[str, str, str, str, str | None, str, bool], ...] = ()


@dataclass(frozen=True)
class Case:
    """A book, the venue's session, and what both planners do about it."""

    orders: Sequence[Json]
    positions: Sequence[Json]
    first: Round
    second: Round
    session: str | None = "open"
    """`open`, `closed`, or None where the venue doesn't tell."""
    rungs: Mapping[str, int] = field(default_factory=dict)
    """How far up the ladder a symbol is already."""


def order(
    identity: str, symbol: str | None = "AAPL", side: str | None = "sell", qty: str | None = "10", **more: Any
) -> Json:
    return {
        "id": identity,
        "client_order_id": f"theirs-{identity}",
        "symbol": symbol,
        "side": side,
        "qty": qty,
        "filled_qty": "0",
        "status": "new",
        "type": "limit",
        "time_in_force": "day",
        "limit_price": "300",
        "submitted_at": "2026-11-27T15:00:00Z",
        "asset_class": "us_equity",
        "order_class": "simple",
        **more,
    }


def held(symbol: str = "AAPL", qty: str = "10", **more: Any) -> Json:
    return {
        "symbol": symbol,
        "qty": qty,
        "side": "short" if qty.startswith("-") else "long",
        "qty_available": qty.lstrip("-"),
        "avg_entry_price": "200",
        "current_price": "200",
        "asset_class": "us_equity",
        **more,
    }


def option(symbol: str, qty: str, price: str = "2.50") -> Json:
    return held(symbol, qty, asset_class="us_option", current_price=price, avg_entry_price=price)


def market(symbol: str, side: str, quantity: str, force: str = "day") -> tuple[Any, ...]:
    return (symbol, side, quantity, "market", None, force, False)


CALL, PUT = "SPY261218C00600000", "SPY261218P00600000"
CALL_ABOVE = "SPY261218C00610000"
STOP = {"type": "stop", "stop_price": "180", "limit_price": None}

BOOKS = {
    "nothing": Case([], [], Round(), Round()),
    "a long and a short position": Case(
        [],
        [held(), held("MSFT", "-7.5")],
        Round(closes=(market("AAPL", "sell", "10"), market("MSFT", "buy", "7.5"))),
        Round(closes=(market("AAPL", "sell", "10"), market("MSFT", "buy", "7.5"))),
    ),
    "the clock does not answer: what works in any session": Case(
        [],
        [held()],
        Round(closes=(("AAPL", "sell", "10", "limit", "196.00", "day", True),)),
        Round(closes=(("AAPL", "sell", "10", "limit", "196.00", "day", True),)),
        session=None,
    ),
    "the clock does not answer, and there is no price": Case(
        [],
        [held(current_price=None)],
        Round(closes=(market("AAPL", "sell", "10"),)),
        Round(closes=(market("AAPL", "sell", "10"),)),
        session=None,
    ),
    "crypto at the weekend": Case(
        [],
        [held("BTCUSD", "0.5", asset_class="crypto")],
        Round(closes=(market("BTCUSD", "sell", "0.5", "gtc"),)),
        Round(closes=(market("BTCUSD", "sell", "0.5", "gtc"),)),
        session="closed",
    ),
    "crypto is one symbol in orders and positions": Case(
        [order("o1", "BTC/USD", "sell", "0.2", asset_class="crypto")],
        [held("BTCUSD", "0.5", asset_class="crypto", qty_available="0.3")],
        Round(cancels=("o1",)),
        Round(cancels=("o1",), closes=(market("BTCUSD", "sell", "0.3", "gtc"),)),
    ),
    "an order that adds resists its cancel: all is closed beside it": Case(
        [order("o1", side="buy", qty="1", status="pending_replace")],
        [held()],
        Round(cancels=("o1",)),
        Round(cancels=("o1",), closes=(market("AAPL", "sell", "10"),)),
    ),
    "an order that reduces resists its cancel: the rest is closed beside it": Case(
        [order("o1", qty="4", status="pending_replace", type="market", limit_price=None)],
        [held(qty_available="6")],
        Round(cancels=("o1",)),
        Round(cancels=("o1",), closes=(market("AAPL", "sell", "6"),)),
    ),
    "a cancel that stays pending is not asked again": Case(
        [order("o1", side="buy", qty="1", status="pending_cancel")],
        [held()],
        Round(closes=(market("AAPL", "sell", "10"),)),
        Round(closes=(market("AAPL", "sell", "10"),)),
    ),
    "one unreadable order blocks its own symbol only": Case(
        [order("o1", limit_price="")],
        [held(), held("MSFT")],
        Round(cancels=("o1",), closes=(market("MSFT", "sell", "10"),)),
        Round(cancels=("o1",), closes=(market("MSFT", "sell", "10"),)),
    ),
    "an order of whose names one is no text blocks its own symbol only": Case(
        [order("o1", client_order_id=77)],
        [held(), held("MSFT")],
        Round(cancels=("o1",), closes=(market("MSFT", "sell", "10"),)),
        Round(cancels=("o1",), closes=(market("MSFT", "sell", "10"),)),
    ),
    "one unreadable position blocks its own symbol only": Case(
        [],
        [held(qty_available=""), held("MSFT")],
        Round(closes=(market("MSFT", "sell", "10"),)),
        Round(closes=(market("MSFT", "sell", "10"),)),
    ),
    "a side that nobody knows is not guessed": Case(
        [order("o1", side="sideways")],
        [held()],
        Round(cancels=("o1",)),
        Round(cancels=("o1",)),
    ),
    "a short sale is a sale": Case(
        [order("o1", side="sell_short", qty="4", type="market", limit_price=None)],
        [held(qty_available="6")],
        Round(cancels=("o1",)),
        Round(cancels=("o1",), closes=(market("AAPL", "sell", "6"),)),
    ),
    "a calculated order is executed": Case(
        [order("o1", status="calculated", filled_qty="10")],
        [held()],
        Round(closes=(market("AAPL", "sell", "10"),)),
        Round(closes=(market("AAPL", "sell", "10"),)),
    ),
    "a limit is in the price steps of what is traded": Case(
        [],
        [
            held("SHIBUSD", "1000000", asset_class="crypto", current_price="0.00001234"),
            option(CALL, "3"),
            held("PENNY", "100", current_price="0.5"),
        ],
        Round(
            closes=(
                ("PENNY", "sell", "100", "limit", "0.4900", "day", False),
                ("SHIBUSD", "sell", "1000000", "limit", "0.00001209", "gtc", False),
                (CALL, "sell", "3", "limit", "2.45", "day", False),
            )
        ),
        Round(
            closes=(
                ("PENNY", "sell", "100", "limit", "0.4900", "day", False),
                ("SHIBUSD", "sell", "1000000", "limit", "0.00001209", "gtc", False),
                (CALL, "sell", "3", "limit", "2.45", "day", False),
            )
        ),
        rungs={"SHIBUSD": 1, CALL: 1, "PENNY": 1},
    ),
    "fractions go as limits outside the session": Case(
        [],
        [held(qty="10.5")],
        Round(closes=(("AAPL", "sell", "10.5", "limit", "196.00", "day", True),)),
        Round(closes=(("AAPL", "sell", "10.5", "limit", "196.00", "day", True),)),
        session="closed",
    ),
    "wider collars are tried outside the session too": Case(
        [],
        [held()],
        Round(closes=(("AAPL", "sell", "10", "limit", "180.00", "day", True),)),
        Round(closes=(("AAPL", "sell", "10", "limit", "180.00", "day", True),)),
        session="closed",
        rungs={"AAPL": 2},
    ),
    "in the end a market order waits for the open": Case(
        [],
        [held()],
        Round(closes=(market("AAPL", "sell", "10"),)),
        Round(closes=(market("AAPL", "sell", "10"),)),
        session="closed",
        rungs={"AAPL": 3},
    ),
    "an option is never queued": Case([], [option(CALL, "3")], Round(), Round(), session="closed"),
    "a spread: the short leg is bought back first": Case(
        [],
        [option(CALL, "-10"), option(CALL_ABOVE, "10")],
        Round(closes=(market(CALL, "buy", "10"),)),
        Round(closes=(market(CALL, "buy", "10"),)),
    ),
    "a covered call: the shares go last": Case(
        [],
        [option(CALL, "-1"), held("SPY", "100")],
        Round(closes=(market(CALL, "buy", "1"),)),
        Round(closes=(market(CALL, "buy", "1"),)),
    ),
    "a covered call: shares that it doesn't need go at once": Case(
        [],
        [option(CALL, "-1"), held("SPY", "250.5")],
        Round(closes=(market(CALL, "buy", "1"), market("SPY", "sell", "150.5"))),
        Round(closes=(market(CALL, "buy", "1"), market("SPY", "sell", "150.5"))),
    ),
    "a long put covers no short call": Case(
        [],
        [option(CALL, "-1"), option(PUT, "2"), option(CALL_ABOVE, "4")],
        Round(closes=(market(CALL, "buy", "1"), market(CALL_ABOVE, "sell", "3"), market(PUT, "sell", "2"))),
        Round(closes=(market(CALL, "buy", "1"), market(CALL_ABOVE, "sell", "3"), market(PUT, "sell", "2"))),
    ),
    "an option that can't be read may be a short one": Case(
        [],
        [{**option(CALL, "-1"), "qty_available": ""}, option(CALL_ABOVE, "4"), option(PUT, "2"), held("SPY", "50")],
        Round(closes=(market(PUT, "sell", "2"),)),
        Round(closes=(market(PUT, "sell", "2"),)),
    ),
    "a stop stays while a part of its position must stay": Case(
        [order("stop", CALL_ABOVE, qty="4", asset_class="us_option", **STOP)],
        [option(CALL, "-1"), {**option(CALL_ABOVE, "4"), "qty_available": "0"}],
        Round(closes=(market(CALL, "buy", "1"),)),
        Round(closes=(market(CALL, "buy", "1"),)),
    ),
    "only long options": Case(
        [],
        [option(CALL, "2"), option(PUT, "3")],
        Round(closes=(market(CALL, "sell", "2"), market(PUT, "sell", "3"))),
        Round(closes=(market(CALL, "sell", "2"), market(PUT, "sell", "3"))),
    ),
    "an order with two legs is cancelled once, whole": Case(
        [
            order(
                "parent",
                None,
                None,
                "2",
                order_class="mleg",
                asset_class=None,
                legs=[
                    order("leg1", CALL, "sell", "2", asset_class="us_option"),
                    order("leg2", CALL_ABOVE, "buy", "2", asset_class="us_option"),
                ],
            )
        ],
        [option(CALL, "5")],
        Round(cancels=("parent",)),
        Round(cancels=("parent",), closes=(market(CALL, "sell", "3"),)),
    ),
    "an order for an amount of money may take any part": Case(
        [order("o1", qty=None, notional="600", filled_qty="2")],
        [held(qty="3")],
        Round(cancels=("o1",)),
        Round(cancels=("o1",)),
    ),
    "a stop goes when its position is about to be closed": Case(
        [order("stop", **STOP), order("entry", "MSFT", "buy", "5")],
        [held(qty_available="0")],
        Round(cancels=("entry", "stop")),
        Round(cancels=("entry", "stop")),
    ),
    "a stop stays while its position can't be closed": Case(
        [order("stop", CALL, qty="3", asset_class="us_option", **STOP), order("entry", "MSFT", "buy", "5")],
        [option(CALL, "3")],
        Round(cancels=("entry",)),
        Round(cancels=("entry",)),
        session="closed",
    ),
    "a stop of a position that is held back stays": Case(
        [order("stop", CALL_ABOVE, qty="10", asset_class="us_option", **STOP)],
        [option(CALL, "-10"), option(CALL_ABOVE, "10")],
        Round(closes=(market(CALL, "buy", "10"),)),
        Round(closes=(market(CALL, "buy", "10"),)),
    ),
    "a stop for more than the position could turn it over": Case(
        [order("stop", CALL, qty="4", asset_class="us_option", **STOP)],
        [option(CALL, "3")],
        Round(cancels=("stop",)),
        Round(cancels=("stop",)),
        session="closed",
    ),
    "a close of this incident is left to work": Case(
        [order("c", type="market", limit_price=None, client_order_id=f"{INCIDENT}-AAPL-1")],
        [held(qty_available="0")],
        Round(),
        Round(),
    ),
}


ABLE = Capabilities(
    bulk_cancel=True, bulk_close=True, reduce_only=False, fractional=True, requests_per_minute=200, page_size=500
)


def the_kill_switch(case: Case) -> list[Round]:
    listed, positions = open_ones(list(read_orders(case.orders))), read_positions(case.positions)
    memory = {symbol: PositionMemory(changed_at=100.0, rung=rung) for symbol, rung in case.rungs.items()}
    now = datetime(2026, 11, 28, 12, tzinfo=UTC)
    clock = None if case.session is None else MarketClock(now, is_open=case.session == "open")
    answers = []
    for at in (100.0, 100.0 + LATER):
        plan = plan_round(
            listed.items,
            positions.items,
            clock,
            memory,
            incident_id=INCIDENT,
            able=ABLE,
            own_order_ids=frozenset(),
            orders_at_start=frozenset(each.id for each in listed),
            now=at,
            pace=PACE,
            unreadable=(*listed.unreadable, *positions.unreadable),
            protective_last=True,
        )
        memory = dict(plan.memory)
        closes = [
            (
                close.symbol,
                close.side.value,
                f"{close.quantity:f}",
                close.type.value,
                None if close.limit_price is None else f"{close.limit_price:f}",
                close.time_in_force.value,
                close.extended_hours,
            )
            for close in plan.closes
        ]
        cancels = {each.cancel_id for each in plan.cancels} | {item.id for item in plan.cancel_unread}
        answers.append(_sorted(cancels, closes))
    return answers


def the_last_resort(case: Case, emergency: ModuleType) -> list[Round]:
    orders, lost = emergency.read_orders(case.orders)
    positions, missing = emergency.read_positions(case.positions)
    flattening = emergency.Flattening(None, None, INCIDENT, emergency.Pace())
    flattening._market = None if case.session is None else emergency.Market(case.session == "open", "")
    flattening._memory = {symbol: emergency.Memory(changed_at=100.0, rung=rung) for symbol, rung in case.rungs.items()}
    book = emergency.Book(
        [each for each in orders if each.status not in emergency.CLOSED], positions, [*lost, *missing]
    )
    answers = []
    for at in (100.0, 100.0 + LATER):
        cancels, closes, _ = flattening.plan(book, at)
        bodies = [
            (
                close.body["symbol"],
                close.body["side"],
                close.body["qty"],
                close.body["type"],
                close.body.get("limit_price"),
                close.body["time_in_force"],
                close.body.get("extended_hours", False),
            )
            for close in closes
        ]
        answers.append(_sorted(cancels, bodies))
    return answers


def _sorted(cancels: Any, closes: Sequence[tuple[Any, ...]]) -> Round:
    return Round(tuple(sorted(cancels)), tuple(_plain(close) for close in sorted(closes)))


def _plain(close: tuple[Any, ...]) -> Any:
    """With numbers by their value: 0.490 is 0.4900."""
    symbol, side, quantity, kind, limit, force, extended = close
    return (symbol, side, Decimal(quantity), kind, None if limit is None else Decimal(limit), force, extended)


@pytest.mark.parametrize("name", BOOKS)
def test_both_planners_answer_a_book_alike_and_as_they_should(name: str, emergency: ModuleType) -> None:
    case = BOOKS[name]
    wanted = [_sorted(each.cancels, each.closes) for each in (case.first, case.second)]
    assert the_kill_switch(case) == wanted
    assert the_last_resort(case, emergency) == wanted


def test_the_last_resort_lets_few_stops_go_at_once(emergency: ModuleType) -> None:
    symbols = [f"S{number}" for number in range(7)]
    listed = [
        order(symbol, symbol=symbol, side="sell", type="stop", limit_price=None, stop_price="1") for symbol in symbols
    ]
    positions = emergency.read_positions([held(symbol=symbol, qty_available="0") for symbol in symbols])[0]
    flattening = emergency.Flattening(None, None, INCIDENT, emergency.Pace())
    flattening._market = emergency.Market(True, "")
    cancels, closes, stuck = flattening.plan(emergency.Book(emergency.read_orders(listed)[0], positions, []), 100.0)
    assert len(cancels) == emergency.LET_GO_AT_ONCE and not closes and not stuck
