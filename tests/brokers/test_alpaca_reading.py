"""What Alpaca's answers say, word by word; the words are the venue's own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest

from breaker.instruments import CRYPTO, EQUITY, OPTION, Instrument
from breaker.orders import Order, OrderStatus, OrderType, Side, TimeInForce, Unreadable
from brokers.alpaca.reading import (
    cancel_result,
    close_result,
    error_of,
    instrument_of,
    json_of,
    open_ones,
    read_account,
    read_clock,
    read_fills,
    read_instruments,
    read_order,
    read_orders,
    read_positions,
    refused_close,
)
from brokers.protocol import CancelOutcome, CloseOutcome, Refusal

D = Decimal
CALL = "AAPL261218C00200000"
ORDER: dict[str, Any] = {
    "id": "o1",
    "client_order_id": "c1",
    "symbol": "AAPL",
    "asset_class": "us_equity",
    "side": "sell",
    "qty": "10",
    "filled_qty": "4",
    "filled_avg_price": "199.5",
    "status": "partially_filled",
    "type": "stop_limit",
    "order_type": "stop_limit",
    "time_in_force": "gtc",
    "limit_price": "198",
    "stop_price": "199",
    "submitted_at": "2026-11-27T15:00:00.123456789Z",
    "order_class": "simple",
}


def orders_of(*bodies: Any) -> list[Order | Unreadable]:
    return list(read_orders([*bodies]))


def test_an_order_is_read_whole() -> None:
    assert read_order(ORDER) == Order(
        id="o1",
        client_order_id="c1",
        symbol="AAPL",
        side=Side.SELL,
        quantity=D(10),
        filled_quantity=D(4),
        status=OrderStatus.PARTIALLY_FILLED,
        type=OrderType.STOP_LIMIT,
        time_in_force=TimeInForce.GTC,
        limit_price=D(198),
        stop_price=D(199),
        average_price=D("199.5"),
        submitted_at=datetime(2026, 11, 27, 15, 0, 0, 123456, UTC),
    )


@pytest.mark.parametrize(
    ("changed", "name", "expected"),
    [
        ({"filled_qty": None}, "filled_quantity", D(0)),
        ({"filled_qty": ""}, "filled_quantity", D(0)),
        ({"client_order_id": None}, "client_order_id", ""),
        ({"type": None}, "type", OrderType.STOP_LIMIT),
        ({"order_type": None}, "type", OrderType.STOP_LIMIT),
        ({"type": None, "order_type": None}, "type", OrderType.LIMIT),
        ({"type": "market"}, "type", OrderType.MARKET),
        ({"type": "a new kind"}, "type", OrderType.LIMIT),
        ({"time_in_force": "a new one"}, "time_in_force", TimeInForce.DAY),
        ({"status": "done_for_day"}, "status", OrderStatus.NEW),
        ({"status": "calculated"}, "status", OrderStatus.FILLED),
        ({"status": "replaced"}, "status", OrderStatus.CANCELED),
        ({"side": "sell_short"}, "side", Side.SELL),
        ({"side": "buy_minus"}, "side", Side.BUY),
        ({"symbol": "BTC/USD", "asset_class": "crypto"}, "symbol", "BTCUSD"),
        ({"symbol": "BRK/B"}, "symbol", "BRK/B"),
        ({"limit_price": None}, "limit_price", None),
        ({"notional": "500"}, "by_amount", False),
        ({"qty": None, "notional": "500"}, "by_amount", True),
        ({"qty": None, "notional": "500"}, "quantity", D(4)),
    ],
)
def test_what_an_order_leaves_out_or_says_in_other_words(changed: dict[str, Any], name: str, expected: object) -> None:
    assert getattr(read_order({**ORDER, **changed}), name) == expected


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"qty": None}, "it has neither a quantity nor an amount"),
        ({"qty": "NaN"}, "'NaN' is not a number"),
        ({"qty": "ten"}, "'ten' is not a number"),
        ({"limit_price": ""}, "'' is not a number"),
        ({"side": "hold"}, "its side is 'hold'"),
        ({"symbol": ""}, "it names no symbol"),
        ({"symbol": 7}, "it names no symbol"),
        ({"client_order_id": 77}, "its client_order_id is 77"),
        ({"client_order_id": ["o1"]}, "its client_order_id is ['o1']"),
        ({"submitted_at": 7}, "TypeError: fromisoformat: argument must be str"),
    ],
)
def test_what_cannot_be_read_is_named_with_what_is_wrong(changed: dict[str, Any], problem: str) -> None:
    (item,) = orders_of({**ORDER, **changed})
    symbol = "AAPL" if "symbol" not in changed else ""
    assert item == Unreadable("order", symbol, "o1", problem)


def test_an_order_under_no_name_is_no_order_and_one_under_a_number_can_be_cancelled_by_it() -> None:
    assert orders_of({**ORDER, "id": None}) == [Unreadable("order", "AAPL", "", "its id is None")]
    assert orders_of({**ORDER, "id": 77}) == [Unreadable("order", "AAPL", "77", "its id is 77")]


def test_what_is_missing_is_called_missing() -> None:
    body = {name: value for name, value in ORDER.items() if name not in ("status", "id")}
    assert orders_of(body) == [Unreadable("order", "AAPL", "", "id is missing")]
    assert orders_of(None) == [Unreadable("order", "", "", "None is no order")]
    with pytest.raises(TypeError, match="is no list"):
        list(read_orders({"message": "no list"}))


def test_an_order_with_several_legs_is_its_legs_under_its_own_name_and_goes_whole() -> None:
    legs = [{**ORDER, "id": f"leg{n}", "client_order_id": f"theirs{n}", "symbol": CALL} for n in (1, 2)]
    parent = {**ORDER, "id": "p1", "client_order_id": "c9", "order_class": "mleg", "symbol": "", "status": "new"}
    first, second = orders_of({**parent, "legs": [*legs, None]})
    assert isinstance(first, Order) and isinstance(second, Order)
    assert (first.id, second.id, first.client_order_id, first.parent_id) == ("leg1", "leg2", "c9", "p1")
    assert first.status is OrderStatus.NEW, "as open as the order that it is a leg of"
    assert first.cancel_id == second.cancel_id == "p1"
    (broken,) = orders_of({**parent, "legs": [{**legs[0], "qty": ""}]})
    assert broken == Unreadable("order", CALL, "p1", "'' is not a number"), "cancelled by the id of the whole"
    assert [item.id for item in orders_of({**parent, "symbol": "AAPL", "legs": None})] == ["p1"]


def test_the_legs_of_a_bracket_are_orders_of_their_own_beside_their_entry() -> None:
    legs = [{**ORDER, "id": f"leg{n}", "client_order_id": f"theirs{n}", "status": "held"} for n in (1, 2)]
    found = orders_of({**ORDER, "order_class": "bracket", "legs": [*legs, "?"]})
    assert [(item.id, item.parent_id) for item in found if isinstance(item, Order)] == [
        ("o1", ""),
        ("leg1", ""),
        ("leg2", ""),
    ]
    assert len(found) == 3


def test_what_is_over_is_not_open_and_what_cannot_be_read_stays() -> None:
    read = orders_of(ORDER, {**ORDER, "id": "o2", "status": "calculated"}, {**ORDER, "id": "o3", "qty": ""})
    listed = open_ones(read)
    assert [item.id for item in listed.items] == ["o1"] and [item.id for item in listed.unreadable] == ["o3"]


POSITION: dict[str, Any] = {
    "symbol": "AAPL",
    "asset_class": "us_equity",
    "side": "long",
    "qty": "10",
    "qty_available": "4",
    "avg_entry_price": "150",
    "current_price": "200",
    "market_value": "2000",
}


def test_a_position_is_read_whole_and_a_short_one_is_negative_whatever_its_sign() -> None:
    (held,) = read_positions([POSITION])
    assert (held.symbol, held.quantity, held.available) == ("AAPL", D(10), D(4))
    assert (held.average_entry_price, held.current_price, held.market_value) == (D(150), D(200), D(2000))
    assert held.instrument == EQUITY
    for told in ("10", "-10"):
        (short,) = read_positions([{**POSITION, "side": "short", "qty": told, "qty_available": "-4"}])
        assert (short.quantity, short.available) == (D(-10), D(4))


def test_a_position_that_says_less() -> None:
    (held,) = read_positions([{"symbol": "AAPL", "qty": "-10"}])
    assert (held.quantity, held.available, held.average_entry_price) == (D(-10), D(10), D(0))
    assert (held.current_price, held.market_value) == (None, None)
    listed = read_positions([None, {**POSITION, "qty": ""}, {"qty": "1"}, {**POSITION, "qty_available": "0"}])
    assert [(item.what, item.symbol, item.problem) for item in listed.unreadable] == [
        ("position", "", "TypeError: 'NoneType' object is not subscriptable"),
        ("position", "AAPL", "'' is not a number"),
        ("position", "", "symbol is missing"),
    ]
    assert [held.available for held in listed] == [D(0)]


@pytest.mark.parametrize(
    ("symbol", "asset_class", "expected"),
    [
        ("AAPL", "us_equity", EQUITY),
        ("AAPL", None, EQUITY),
        ("BTCUSD", "crypto", CRYPTO),
        (CALL, "us_option", OPTION),
        (CALL, None, OPTION),
        (CALL, "us_equity", EQUITY),
        ("AAPL", "us_option", OPTION),
        ("AAPL", "something new", EQUITY),
    ],
)
def test_the_venues_word_says_what_is_traded_and_without_one_the_symbols_form(
    symbol: str, asset_class: str | None, expected: Instrument
) -> None:
    assert instrument_of(symbol, asset_class) == expected


def test_fills_are_read_with_their_order_and_what_cannot_be_read_is_named() -> None:
    body = {
        "id": "f1",
        "order_id": "o1",
        "symbol": "BTC/USD",
        "side": "buy",
        "qty": "0.5",
        "price": "60000",
        "transaction_time": "2026-11-27T10:00:00-05:00",
        "cum_qty": "0.75",
    }
    first, second, third, fourth = read_fills([body, {**body, "cum_qty": None}, {**body, "price": None, "id": None}, 7])
    assert not isinstance(first, Unreadable) and not isinstance(second, Unreadable)
    assert (first.id, first.order_id, first.symbol, first.side) == ("f1", "o1", "BTCUSD", Side.BUY)
    assert (first.quantity, first.price, first.cumulative_quantity) == (D("0.5"), D(60_000), D("0.75"))
    assert first.at == datetime(2026, 11, 27, 15, tzinfo=UTC) and second.cumulative_quantity is None
    assert third == Unreadable("fill", "BTC/USD", "", "None is not a number")
    (named,) = read_fills([{**body, "qty": "NaN"}])
    assert named == Unreadable("fill", "BTC/USD", "f1", "'NaN' is not a number")
    assert fourth == Unreadable("fill", "", "", "TypeError: 'int' object is not subscriptable")


ACCOUNT: dict[str, Any] = {"account_number": "A1", "currency": "USD", "equity": "100000.5", "buying_power": "400000"}


def test_an_account_says_what_blocks_it_and_who_lifts_that() -> None:
    free = read_account({**ACCOUNT, "account_blocked": False, "trading_blocked": False})
    assert (free.id, free.currency, free.equity, free.buying_power) == ("A1", "USD", D("100000.5"), D(400_000))
    assert (free.trading_blocked, free.trading_suspended) == ("", "")
    suspended = read_account({**ACCOUNT, "trade_suspended_by_user": True})
    assert "suspend_trade" in suspended.trading_suspended and suspended.trading_blocked == ""
    assert "blocked this account" in read_account({**ACCOUNT, "account_blocked": True}).trading_blocked
    assert "blocked trading in this" in read_account({**ACCOUNT, "trading_blocked": True}).trading_blocked


def test_the_session_is_read_in_utc() -> None:
    told = {"timestamp": "2026-11-24T12:00:00-05:00", "is_open": True, "next_open": None}
    clock = read_clock({**told, "next_close": "2026-11-24T16:00:00-05:00"})
    assert clock.is_open and clock.next_open is None
    assert (clock.now, clock.next_close) == (
        datetime(2026, 11, 24, 17, tzinfo=UTC),
        datetime(2026, 11, 24, 21, tzinfo=UTC),
    )
    closed = read_clock({**told, "is_open": False, "next_open": "2026-11-25T09:30:00-05:00"})
    assert not closed.is_open and closed.next_open == datetime(2026, 11, 25, 14, 30, tzinfo=UTC)


GONE, RESISTS = 'order is already in "filled" state', "order is pending_replace, cannot be canceled"


@pytest.mark.parametrize(
    ("status", "body", "outcome", "reason"),
    [
        (200, {}, CancelOutcome.ACCEPTED, ""),
        (204, None, CancelOutcome.ACCEPTED, ""),
        (404, {"message": "order not found"}, CancelOutcome.NOT_OPEN, "order not found"),
        (422, {"message": GONE}, CancelOutcome.NOT_OPEN, GONE),
        (422, {"message": RESISTS}, CancelOutcome.REFUSED, RESISTS),
        (500, None, CancelOutcome.REFUSED, "status 500"),
        (500, {}, CancelOutcome.REFUSED, "status 500"),
    ],
)
def test_what_became_of_a_cancel(status: int, body: Any, outcome: CancelOutcome, reason: str) -> None:
    result = cancel_result("o1", status, body)
    assert (result.order_id, result.outcome, result.reason) == ("o1", outcome, reason)


def test_what_became_of_an_item_of_a_bulk_close() -> None:
    taken = close_result("AAPL", 200, ORDER)
    assert taken.outcome is CloseOutcome.ACCEPTED and taken.order is not None and taken.order.id == "o1"
    told = close_result("AAPL", 403, {"code": 40310000, "message": "halted"})
    assert (told.outcome, told.code, told.reason) == (CloseOutcome.REFUSED, "40310000", "halted")
    untold = close_result("AAPL", 500, {})
    assert (untold.code, untold.reason, untold.refusal) == ("500", "status 500", Refusal.OTHER)


UNNAMED = "; held by orders that it does not name"
OWN_LOCK = "; trading is suspended in the account: lift suspend_trade in its configuration"
VENUES_LOCK = "; the venue has blocked the account: only the venue's support lifts that"


@pytest.mark.parametrize(
    ("message", "body", "refusal", "more"),
    [
        ("trading is halted", {}, Refusal.OTHER, ""),
        ("minimal amount of order 1", {}, Refusal.BELOW_MINIMUM, ""),
        ("Qty must be > 0.001", {}, Refusal.BELOW_MINIMUM, ""),
        ("fractional orders must be DAY orders", {}, Refusal.FRACTION, ""),
        ("fractional orders cannot be sold short", {}, Refusal.OTHER, ""),
        ("sub-penny increment does not fulfill minimum pricing criteria", {}, Refusal.PRICE_STEP, ""),
        ("does not fulfill pricing criteria", {}, Refusal.PRICE_STEP, ""),
        ("limit price must be in whole increments", {}, Refusal.PRICE_STEP, ""),
        ("the price is too far away", {}, Refusal.OTHER, ""),
        ("the increment of the session", {}, Refusal.OTHER, ""),
        ("insufficient qty available for order", {}, Refusal.HELD, UNNAMED),
        ("not now", {"held_for_orders": "10"}, Refusal.HELD, UNNAMED),
        ("not now", {"related_orders": ["a", "b", "c", "d"]}, Refusal.HELD, "; held by orders a, b, c"),
        ("not now", {"related_orders": None}, Refusal.OTHER, ""),
        ("new orders are rejected by user request", {}, Refusal.SUSPENDED, OWN_LOCK),
        ("trading is SUSPENDED", {}, Refusal.SUSPENDED, OWN_LOCK),
        ("trading is blocked for this account", {}, Refusal.SUSPENDED, VENUES_LOCK),
        ("your account is blocked", {}, Refusal.SUSPENDED, VENUES_LOCK),
    ],
)
def test_why_a_close_was_refused(message: str, body: dict[str, Any], refusal: Refusal, more: str) -> None:
    result = refused_close("AAPL", message, "40310000", body)
    assert (result.symbol, result.outcome, result.order, result.code) == (
        "AAPL",
        CloseOutcome.REFUSED,
        None,
        "40310000",
    )
    assert (result.refusal, result.reason) == (refusal, message + more)


def test_an_order_of_that_name_is_there_already() -> None:
    result = refused_close("AAPL", "client_order_id must be unique", "40010001", {"related_orders": ["x"]})
    assert (result.outcome, result.reason) == (CloseOutcome.DUPLICATE, "client_order_id must be unique")


def test_an_answer_without_json_has_its_status_for_a_reason() -> None:
    assert json_of(httpx.Response(204)) is None and json_of(httpx.Response(200, text="<html>")) is None
    assert json_of(httpx.Response(200, json=[1])) == [1]
    assert error_of(httpx.Response(502, text="<html>")) == ("502", "Bad Gateway")
    assert error_of(httpx.Response(422, json=["?"])) == ("422", "Unprocessable Entity")
    assert error_of(httpx.Response(403, json={"code": 7, "message": "no"})) == ("7", "no")
    assert error_of(httpx.Response(403, json={})) == ("403", "Forbidden")


def test_a_pairs_steps_are_told_in_the_spelling_that_was_asked_for() -> None:
    listed = [
        {
            "class": "crypto",
            "symbol": "BTC/USD",
            "min_order_size": "0.0001",
            "min_trade_increment": "0.00000001",
            "price_increment": "0.5",
        },
        {"class": "crypto", "symbol": "ETH/USD"},
        {"class": "us_equity", "symbol": "AAPL"},
    ]
    assert read_instruments(listed, ["BTCUSD", "AAPL"]) == {
        "BTCUSD": replace(
            CRYPTO, price_increment=D("0.5"), quantity_increment=D("0.00000001"), minimum_quantity=D("0.0001")
        )
    }
