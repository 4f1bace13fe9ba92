"""The Alpaca adapter against a real HTTP venue: nothing is missed, nothing is sent twice, nothing waits for ever."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from breaker.orders import OrderStatus, OrderType, Side, TimeInForce
from brokers.alpaca import AlpacaBroker
from brokers.alpaca.adapter import FEW
from brokers.alpaca.reading import refused_close
from brokers.protocol import (
    Broker,
    BrokerRefused,
    BrokerUnavailable,
    CancelOutcome,
    CloseOrder,
    CloseOutcome,
    Refusal,
)
from sandbox.exchange.server import PaperExchangeThread
from tests.brokers.conftest import Venue
from tests.helpers import BUSY, in_time
from tests.tasks.web import Answer, Asked, Web

KEYS = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}
SECRET = "s3cr3t-that-nobody-may-see"
LONG = '[prices]\nAAPL = 200\n[[positions]]\nsymbol = "AAPL"\nqty = 100\n'
SELL = CloseOrder("AAPL", Side.SELL, Decimal(100), "incident-AAPL-1")


@pytest.fixture
async def broker(server: PaperExchangeThread) -> AsyncIterator[AlpacaBroker]:
    async with opened(server.url) as broker:
        yield broker


@asynccontextmanager
async def opened(
    url: str, *, timeout: float = 0.4, key: str = "key", secret: str = "secret"
) -> AsyncIterator[AlpacaBroker]:
    broker = AlpacaBroker("ALPHA", url, key, secret, timeout=timeout)
    try:
        yield broker
    finally:
        await broker.aclose()


def trouble(kind: str, routes: str, **more: object) -> str:
    rules = "".join(
        f"{key} = {str(value).lower() if isinstance(value, bool) else value}\n" for key, value in more.items()
    )
    return f'[[trouble]]\nkind = "{kind}"\nroutes = ["{routes}"]\n{rules}'


def test_it_is_a_broker(server: PaperExchangeThread) -> None:
    assert isinstance(AlpacaBroker("ALPHA", server.url + "/v2/", "key", "secret"), Broker)


# Reading


@pytest.mark.parametrize("sharing", [1, 7, 499])
async def test_1200_orders_are_all_read_also_where_they_share_time_stamps(
    venue: Venue, broker: AlpacaBroker, sharing: int
) -> None:
    exchange = venue(f"[book]\norders = 1200\npositions = 5\norders_per_timestamp = {sharing}\n")
    orders = await broker.open_orders()
    assert len({order.id for order in orders}) == len(orders) == 1200
    assert exchange.report()["requests"]["GET /v2/orders"] <= 6


async def test_a_list_that_cannot_be_read_whole_is_not_taken_for_whole(venue: Venue, broker: AlpacaBroker) -> None:
    venue("[book]\norders = 700\norders_per_timestamp = 700\n")
    with pytest.raises(BrokerUnavailable, match="share one time stamp"):
        await broker.open_orders()


async def test_bracket_legs_are_orders_of_their_own_also_when_their_entry_has_filled(
    venue: Venue, broker: AlpacaBroker
) -> None:
    venue("[book]\nbrackets = 3\norders = 2\n")
    orders = await broker.open_orders()
    assert sorted(order.type for order in orders) == ["limit"] * 5 + ["stop"] * 3
    assert sum(order.status is OrderStatus.HELD for order in orders) == 3


async def test_positions_are_signed_and_exact(venue: Venue, broker: AlpacaBroker) -> None:
    venue(
        '[[positions]]\nsymbol = "AAPL"\nqty = 100.000000001\n[[positions]]\nsymbol = "MSFT"\nqty = -7\n'
        '[[orders]]\nsymbol = "MSFT"\nside = "buy"\nqty = 3\nlimit_price = 1\n'
    )
    aapl, msft = sorted(await broker.positions(), key=lambda position: position.symbol)
    assert (aapl.quantity, aapl.closing_side) == (Decimal("100.000000001"), Side.SELL)
    assert (msft.quantity, msft.available, msft.closing_side) == (Decimal(-7), Decimal(4), Side.BUY)


async def test_an_order_for_an_amount_of_money_has_an_unknown_rest(
    venue: Venue, broker: AlpacaBroker, server: PaperExchangeThread
) -> None:
    venue("[prices]\nAAPL = 200\n")
    async with httpx.AsyncClient(base_url=server.url, headers=KEYS) as http:
        body = {"symbol": "AAPL", "side": "buy", "type": "limit", "time_in_force": "day", "limit_price": "100"}
        assert (await http.post("/v2/orders", json={**body, "notional": "5000"})).status_code == 200
    (order,) = await broker.open_orders()
    assert order.status.is_open and order.by_amount and order.remaining == 0


async def test_market_clock_and_account(venue: Venue, broker: AlpacaBroker) -> None:
    venue('[market]\nsession = "closed"\n[account]\ncash = 1234.5\n')
    clock, account = await broker.clock(), await broker.account()
    assert not clock.is_open and clock.next_open is not None and clock.next_open > clock.now
    assert (account.equity, account.currency, account.trading_blocked) == (Decimal("1234.50"), "USD", "")


# Answers of a shape that nobody announced


@asynccontextmanager
async def answering(answers: dict[str, Any], **headers: str) -> AsyncIterator[tuple[AlpacaBroker, list[str]]]:
    """A real HTTP server with these JSON answers by path, and the requests that it got."""
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            length = next(
                (int(x.split(":")[1]) for x in head.splitlines() if x.lower().startswith("content-length")), 0
            )
            body = (await reader.readexactly(length)).decode()
            path = head.split()[1].partition("?")[0].removeprefix("/v2")
            seen.append(f"{head.split()[0]} {path} {body}".strip())
            answer = answers.get(path, [])
            status, answer = answer if isinstance(answer, tuple) else (200, answer)
            content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
            writer.write(f"HTTP/1.1 {status} X\r\n{extra}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with opened(f"http://127.0.0.1:{port}", secret=SECRET, timeout=0.2) as broker:
        try:
            yield broker, seen
        finally:
            listener.close()


def raw(**changes: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "client_order_id": "c",
        "symbol": "AAPL",
        "asset_class": "us_equity",
        "side": "sell",
        "qty": "10",
        "filled_qty": "0",
        "status": "new",
        "type": "limit",
        "time_in_force": "gtc",
        "submitted_at": "2026-11-24T10:00:00.123456789Z",
        **changes,
    }


@pytest.mark.parametrize("word", ["accepted", "suspended", "stopped", "done_for_day", "whatever_comes"])
async def test_a_status_nobody_knows_is_an_order_that_may_still_fill(word: str) -> None:
    async with answering({"/orders": [raw(status=word)]}) as (broker, _):
        (order,) = await broker.open_orders()
    assert order.status.is_open and order.remaining == 10


async def test_an_order_of_an_unknown_kind_is_still_one_to_cancel() -> None:
    several_legs = raw(
        id="m", symbol=None, side=None, type=None, time_in_force=None, filled_qty=None, submitted_at=None
    )
    several_legs |= {"created_at": "2026-11-24T10:00:00Z", "order_type": "market", "client_order_id": None}
    exotic = raw(id="x", type="iceberg", time_in_force="gtd", side="buy")
    async with answering({"/orders": [several_legs, exotic]}) as (broker, _):
        orders = await broker.open_orders()
    assert [(item.id, item.symbol) for item in orders.unreadable] == [("m", "")]
    assert [order.id for order in orders] == ["x"]


async def test_a_crypto_pair_is_one_symbol_in_orders_and_positions_and_trades_round_the_clock() -> None:
    answers = {
        "/orders": [raw(symbol="BTC/USD", asset_class="crypto")],
        "/positions": [{"symbol": "BTCUSD", "asset_class": "crypto", "qty": "0.5", "side": "long"}],
    }
    async with answering(answers) as (broker, seen):
        (order,), (position,) = await broker.open_orders(), await broker.positions()
        assert order.symbol == position.symbol == "BTCUSD"
        assert (position.available, position.average_entry_price, position.current_price) == (
            Decimal("0.5"),
            Decimal(0),
            None,
        )
        answers["/orders"] = raw(symbol="BTC/USD", asset_class="crypto")  # type: ignore[assignment]
        close = CloseOrder("BTCUSD", Side.SELL, Decimal("1E+2"), "c", time_in_force=TimeInForce.GTC)
        assert (await broker.close(close)).outcome is CloseOutcome.ACCEPTED
    assert '"time_in_force":"gtc"' in seen[-1] and "extended" not in seen[-1]
    assert '"qty":"100"' in seen[-1]


@pytest.mark.parametrize("answer", [{"orders": 1}, "<html>", 7])
async def test_an_answer_that_makes_no_sense_is_no_answer(answer: object) -> None:
    async with answering({"/orders": answer, "/positions": answer, "/account": answer, "/clock": answer}) as (
        broker,
        _,
    ):
        for read in (broker.open_orders, broker.positions, broker.account, broker.clock):
            with pytest.raises(BrokerUnavailable, match="ALPHA"):
                await read()


@pytest.mark.parametrize(
    ("order", "problem"),
    [
        ({}, "neither a quantity"),
        (None, "is no order"),
        (raw(qty="NaN"), "'NaN' is not a number"),
        (raw(limit_price=""), "'' is not a number"),
        (raw(side="sideways"), "its side is 'sideways'"),
        (raw(qty=None), "neither a quantity nor an amount"),
    ],
)
async def test_one_order_that_makes_no_sense_is_named_and_keeps_none_of_the_others_back(
    order: object, problem: str
) -> None:
    async with answering({"/orders": [order, raw(id="good", client_order_id="g")]}) as (broker, _):
        listed = await broker.open_orders()
    assert [each.id for each in listed] == ["good"]
    (unreadable,) = listed.unreadable
    assert problem in str(unreadable)
    assert unreadable.id == (order.get("id", "") if isinstance(order, dict) else "")


async def test_one_position_that_makes_no_sense_is_named_and_keeps_none_of_the_others_back() -> None:
    good = {"symbol": "MSFT", "qty": "5", "side": "long"}
    async with answering({"/positions": [{"symbol": "AAPL", "qty": "5", "qty_available": ""}, good]}) as (broker, _):
        listed = await broker.positions()
    assert [position.symbol for position in listed] == ["MSFT"] and len(listed) == 2
    assert [(item.what, item.symbol) for item in listed.unreadable] == [("position", "AAPL")]


async def test_every_page_of_fills_is_read_with_what_each_order_had_filled(venue: Venue, broker: AlpacaBroker) -> None:
    began = datetime.now(UTC)
    exchange = venue(
        "seed = 4\nrate_limit = 10000\n[book]\npositions = 120\n[fills]\npartial_probability = 0.6\npause = 0\n"
    )
    held = {position.symbol: position.quantity for position in await broker.positions()}
    for result in await broker.close_all():
        assert result.outcome is CloseOutcome.ACCEPTED
    async with asyncio.timeout(10):
        while await broker.positions():
            await asyncio.sleep(0.02)
    fills = await broker.fills(began - timedelta(seconds=1))
    assert len(fills) > 150 and fills.unreadable == ()
    assert exchange.report()["requests"]["GET /v2/account/activities/FILL"] == len(fills) // 100 + 1
    moved = dict.fromkeys(held, Decimal(0))
    for fill in fills:
        moved[fill.symbol] -= fill.side.sign * fill.quantity
        assert fill.price > 0 and fill.at.tzinfo is not None and fill.fee is None
    assert moved == held
    last = {fill.order_id: fill.cumulative_quantity for fill in fills}
    assert sorted(last.values(), key=str) == sorted((abs(quantity) for quantity in held.values()), key=str)
    assert not await broker.fills(datetime.now(UTC) + timedelta(seconds=2))


async def test_a_fill_of_a_pair_has_the_symbol_of_its_position_and_one_that_makes_no_sense_is_named() -> None:
    """The fields are those of Alpaca's own sample of a TradeActivity."""
    good = {
        "activity_type": "FILL",
        "cum_qty": "1",
        "id": "20190524113406977::8efc7b9a-8b2b-4000-9955-d36e7db0df74",
        "leaves_qty": "0",
        "price": "1.63",
        "qty": "1",
        "side": "sell_short",
        "symbol": "BTC/USD",
        "transaction_time": "2019-05-24T15:34:06.977Z",
        "order_id": "904837e3-3b76-47ec-b432-046db621571b",
        "type": "fill",
    }
    page = [good, {**good, "id": "2", "price": ""}, 7]
    async with answering({"/account/activities/FILL": page}) as (broker, _):
        listed = await broker.fills(datetime(2019, 5, 24, tzinfo=UTC))
    (fill,) = listed
    assert (fill.symbol, fill.side, fill.price, fill.quantity) == ("BTCUSD", Side.SELL, Decimal("1.63"), Decimal(1))
    assert fill.at == datetime(2019, 5, 24, 15, 34, 6, 977000, tzinfo=UTC)
    assert str(listed.unreadable[0]) == "the venue's fill 2 of BTC/USD can't be read: '' is not a number"
    assert len(listed.unreadable) == 2


async def test_fills_that_repeat_themselves_for_ever_are_no_answer() -> None:
    item = {"id": "1", "order_id": "1", "symbol": "A", "side": "buy", "qty": "1", "price": "1"}
    page = [{**item, "transaction_time": "2019-05-24T15:34:06.977Z"}] * 100
    async with answering({"/account/activities/FILL": page}) as (broker, _):
        with pytest.raises(BrokerUnavailable, match="list of fills can't be understood"):
            await broker.fills(datetime(2019, 5, 24, tzinfo=UTC))


async def test_a_damaged_answer_is_no_answer() -> None:
    async with answering({"/positions": "not compressed"}, Content_Encoding="gzip") as (broker, _):
        with pytest.raises(BrokerUnavailable, match="GET /positions"):
            await broker.positions()


async def test_an_accepted_close_stays_accepted_whatever_its_answer_looks_like() -> None:
    async with answering({"/orders": "thank you"}) as (broker, seen):
        assert (await broker.close(SELL)).outcome is CloseOutcome.ACCEPTED
    assert len(seen) == 1


# Cancelling


async def test_each_item_of_a_bulk_answer_counts_on_its_own(venue: Venue, broker: AlpacaBroker) -> None:
    venue("[book]\norders = 10\npending_replace = 2\npending_cancel = 1\n")
    results = await broker.cancel_all()
    outcomes = [result.outcome for result in results]
    assert outcomes.count(CancelOutcome.ACCEPTED) == 7
    refused = [result.reason for result in results if result.outcome is CancelOutcome.REFUSED]
    assert sorted(reason.split("pending_")[1][:6] for reason in refused) == ["cancel", "replac", "replac"]


async def test_each_item_of_a_bulk_close_counts_on_its_own(venue: Venue, broker: AlpacaBroker) -> None:
    venue("[book]\npositions = 6\n[[halts]]\ncount = 2\n")
    results = await broker.close_all()
    refused = [result for result in results if result.outcome is CloseOutcome.REFUSED]
    assert len(results) == 6 and len(refused) == 2
    assert all("trading is halted" in result.reason and result.code == "42210000" for result in refused)


async def test_cancelling_what_is_gone_or_unknown_says_so(venue: Venue, broker: AlpacaBroker) -> None:
    venue(LONG)
    sold = (await broker.close(SELL)).order
    assert sold is not None
    assert (await broker.cancel(sold.id)).outcome is CancelOutcome.NOT_OPEN
    missing = "11111111-1111-4111-8111-111111111111"
    assert (await broker.cancel(missing)).outcome is CancelOutcome.NOT_OPEN


async def test_a_cancel_without_an_answer_is_unknown(venue: Venue, broker: AlpacaBroker) -> None:
    venue(trouble("timeout", "DELETE /v2/orders/{id}"))
    result = await broker.cancel("11111111-1111-4111-8111-111111111111")
    assert result.outcome is CancelOutcome.UNKNOWN and "no answer within" in result.reason


# Closing: once, whatever happens to the answer


@pytest.mark.parametrize("kind", ["drop", "timeout", "500", "504"])
async def test_a_lost_answer_is_looked_up_and_never_sent_again(venue: Venue, broker: AlpacaBroker, kind: str) -> None:
    exchange = venue(LONG + trouble(kind, "POST /v2/orders", applied=True))
    result = await broker.close(SELL)
    assert result.outcome is CloseOutcome.ACCEPTED
    assert result.order is not None and result.order.filled_quantity == 100
    report = exchange.report()
    assert report["requests"]["POST /v2/orders"] == 1 and report["positions"] == {}


@pytest.mark.parametrize("kind", ["drop", "timeout", "500"])
async def test_a_close_that_never_arrived_is_unknown_and_may_be_sent_under_the_same_name(
    venue: Venue, broker: AlpacaBroker, kind: str
) -> None:
    exchange = venue(LONG + trouble(kind, "POST /v2/orders", first=1))
    result = await broker.close(SELL)
    assert result.outcome is CloseOutcome.UNKNOWN and "does not know the order" in result.reason
    assert exchange.report()["requests"]["POST /v2/orders"] == 1
    assert (await broker.close(SELL)).outcome is CloseOutcome.ACCEPTED
    assert exchange.report()["violations"] == []


async def test_a_close_is_unknown_when_it_cannot_be_looked_up_either(venue: Venue, broker: AlpacaBroker) -> None:
    venue(LONG + trouble("drop", "*", applied=True))
    result = await broker.close(SELL)
    assert result.outcome is CloseOutcome.UNKNOWN and "then ALPHA" in result.reason


async def test_the_same_close_from_another_process_is_a_duplicate(venue: Venue, broker: AlpacaBroker) -> None:
    exchange = venue(LONG + "[fills]\ndelay = 1000\n")
    async with opened(exchange.url) as other:
        results = await asyncio.gather(*(each.close(SELL) for each in (broker, other, broker, other)))
    assert sorted(result.outcome for result in results) == ["accepted", "duplicate", "duplicate", "duplicate"]
    assert exchange.report()["orders_created"]["client"] == 1
    order = await broker.order(SELL.client_order_id)
    assert order is not None and order.remaining == 100
    assert await broker.order("somebody-elses") is None


async def test_a_refused_close_has_the_venues_own_words_and_code(venue: Venue, broker: AlpacaBroker) -> None:
    venue(LONG + '[[orders]]\nsymbol = "AAPL"\nside = "sell"\nqty = 60\nlimit_price = 900\n')
    result = await broker.close(SELL)
    assert (result.outcome, result.code) == (CloseOutcome.REFUSED, "40310000")
    assert "requested: 100, available: 40" in result.reason


async def test_an_extended_hours_close_is_a_limit_order_for_the_day(venue: Venue, broker: AlpacaBroker) -> None:
    venue(LONG + '[market]\nsession = "extended"\n')
    close = CloseOrder(
        "AAPL", Side.SELL, Decimal(100), "c", OrderType.LIMIT, Decimal("196.00"), TimeInForce.DAY, extended_hours=True
    )
    result = await broker.close(close)
    assert result.outcome is CloseOutcome.ACCEPTED
    assert len(await broker.positions()) == 0


# Waiting, and for how long


async def test_reads_are_tried_again_through_a_short_outage(
    venue: Venue, broker: AlpacaBroker, capfd: pytest.CaptureFixture[str]
) -> None:
    exchange = venue(LONG + trouble("503", "*", first=2) + trouble("drop", "*", first=1))
    assert len(await broker.positions()) == 1
    assert exchange.report()["trouble"] == {"503": 2, "drop": 1}
    assert capfd.readouterr() == ("", ""), "standard output belongs to whoever calls"


@pytest.mark.parametrize(
    "call",
    ["account", "clock", "open_orders", "positions", "order", "cancel_all", "cancel", "close", "close_all", "fills"],
)
async def test_every_call_ends_in_time_when_the_venue_says_nothing(call: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "order": ("c",),
        "cancel": ("id",),
        "close": (SELL,),
        "fills": (datetime.now(UTC),),
    }
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with opened(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1) as broker:
            with in_time(1):
                try:
                    result = await getattr(broker, call)(*arguments.get(call, ()))
                except BrokerUnavailable as error:
                    assert "no answer within 0.1 s" in str(error)
                else:
                    assert result.outcome == "unknown"


async def test_nobody_listening_is_said_at_once_and_in_one_line() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with opened(f"http://127.0.0.1:{unused.getsockname()[1]}", timeout=0.1) as broker:
            with pytest.raises(BrokerUnavailable) as caught:
                await broker.positions()
    assert "\n" not in str(caught.value) and "ALPHA" in str(caught.value) and "127.0.0.1" in str(caught.value)


async def test_a_used_up_rate_limit_is_waited_for_and_not_beaten_against(venue: Venue, broker: AlpacaBroker) -> None:
    exchange = venue("rate_limit = 3\ntime_scale = 60\n")
    for _ in range(3):
        await broker.positions()
    begun = time.monotonic()
    await broker.positions()
    assert 0.5 < time.monotonic() - begun < 2 + BUSY
    assert exchange.report()["responses"].get("429", 0) <= 1


async def test_a_close_never_waits_for_the_rate_limit_as_its_position_would_be_out_of_date(
    venue: Venue, broker: AlpacaBroker
) -> None:
    exchange = venue("rate_limit = 1\n" + LONG)
    await broker.positions()
    with in_time(0), pytest.raises(BrokerUnavailable, match="rate limit is used up"):
        await broker.close(SELL)
    assert "POST /v2/orders" not in exchange.report()["requests"]


async def test_a_429_while_something_is_left_of_the_limit_pauses_for_a_second_and_not_for_a_minute(
    venue: Venue, broker: AlpacaBroker
) -> None:
    exchange = venue('[[trouble]]\nkind = "429"\nfirst = 1\n' + LONG)
    begun = time.monotonic()
    await broker.positions()
    with pytest.raises(BrokerUnavailable, match=r"refuses for now \(429\)") as raised:
        venue('[[trouble]]\nkind = "429"\nfirst = 1\n' + LONG)
        await broker.close(SELL)
    assert "\n" not in str(raised.value)
    await broker.positions()
    assert 1 < time.monotonic() - begun < 5 + BUSY
    assert exchange.report()["responses"] == {"200": 1, "429": 1}


async def test_the_rate_limit_is_reckoned_by_the_venues_clock_not_ours() -> None:
    headers = {"X_Ratelimit_Remaining": "0", "X_Ratelimit_Reset": "1000000001", "Date": "Sun, 09 Sep 2001 01:46:40 GMT"}
    async with answering({"/positions": []}, **headers) as (broker, _):
        await broker.positions()
        begun = time.monotonic()
        await broker.positions()
    assert 0.8 < time.monotonic() - begun < 1 + BUSY


# Keys


async def test_wrong_keys_are_refused_after_a_few_answers_and_without_the_secret(
    venue: Venue, server: PaperExchangeThread, caplog: pytest.LogCaptureFixture
) -> None:
    venue(LONG)
    caplog.set_level(logging.DEBUG)
    async with opened(server.url, key="key", secret=SECRET) as broker:
        with pytest.raises(BrokerRefused, match=r"refuses the keys \(401\).*account ALPHA") as caught:
            await broker.positions()
        shown = repr(broker) + "".join(traceback.format_exception(caught.value)) + caplog.text
    assert SECRET not in shown
    assert server.report()["responses"] == {"401": 3}


async def test_a_refusal_is_told_in_the_venues_words_and_not_tried_again() -> None:
    async with answering({"/positions": (403, {"message": "account is blocked"})}) as (broker, seen):
        with pytest.raises(BrokerRefused, match="403: account is blocked"):
            await broker.positions()
    assert len(seen) == 1


async def test_keys_that_may_trade_miss_nothing_and_no_order_is_placed_to_learn_it(
    venue: Venue, broker: AlpacaBroker
) -> None:
    exchange = venue(LONG)
    assert await broker.not_permitted() == []
    assert not any(route.startswith("POST") for route in exchange.report()["requests"])


@pytest.mark.parametrize(("status", "words"), [(401, "may trade"), (403, "403: not for these keys")])
async def test_keys_that_may_only_read_are_told_before_a_kill_needs_them(status: int, words: str) -> None:
    account = {"account_number": "1", "currency": "USD", "equity": "1", "buying_power": "1"}

    def answer(asked: Asked) -> Answer:
        if asked.method == "GET":
            return Answer(body=json.dumps({**account, "trading_blocked": True}))
        return Answer(status, json.dumps({"message": "not for these keys"}))

    with Web(answer) as web:
        async with opened(web.url) as broker:
            blocked, cancelling = await broker.not_permitted()
    assert "has blocked trading" in blocked
    assert cancelling.startswith("cancelling and closing") and words in cancelling
    assert {asked.method for asked in web.asked} == {"GET", "DELETE"}


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        ("cost basis must be >= minimal amount of order 10", Refusal.BELOW_MINIMUM),
        ("qty must be > 0.0001", Refusal.BELOW_MINIMUM),
        ("order is below the minimum order size", Refusal.BELOW_MINIMUM),
        (
            "invalid limit_price 0.00001209. sub-penny increment does not fulfill minimum pricing criteria",
            Refusal.PRICE_STEP,
        ),
        ("insufficient qty available for order (requested: 100, available: 40)", Refusal.HELD),
        ("fractional orders must be market orders", Refusal.FRACTION),
    ],
)
def test_promise_7_only_what_is_too_little_to_be_traded_is_dust(message: str, refusal: Refusal) -> None:
    """A price refused for its "minimum pricing criteria" was taken for dust, and the book for flat."""
    assert refused_close("SHIBUSD", message, "42210000", {}).refusal is refusal


@pytest.mark.parametrize(("count", "each_time"), [(FEW + 1, [1, 1, 1]), (FEW, [1, 2, 2]), (0, [2, 2, 2])])
async def test_a_second_opinion_is_asked_for_only_where_the_next_list_may_well_be_empty(
    venue: Venue, count: int, each_time: list[int]
) -> None:
    """Of a thousand orders each reading would cost twice as much of the rate limit."""
    server = venue("[book]\norders = 1\n")
    (one,) = httpx.get(f"{server.url}/v2/orders", headers=KEYS).json()
    listed = json.dumps([{**one, "id": f"o{number}"} for number in range(count)])
    requests: list[int] = []
    with Web(lambda _: Answer(200, listed, {"Content-Type": "application/json"})) as web:
        broker = AlpacaBroker("ALPHA", web.url, "key", "secret")
        for _ in each_time:
            before = len(web.asked)
            assert len(await broker.open_orders()) == count
            requests.append(len(web.asked) - before)
        await broker.aclose()
    assert requests == each_time


@pytest.mark.parametrize("short", [False, True], ids=["one after the other", "both at once"])
@pytest.mark.parametrize("nested", ["true", "false"])
async def test_an_order_that_only_one_of_the_lists_has_is_open(venue: Venue, short: bool, nested: str) -> None:
    """A list that is short is read beside the other one from then on; what either has is open."""
    server = venue("[book]\norders = 1\n")
    (kept,) = httpx.get(f"{server.url}/v2/orders", headers=KEYS).json()
    listed: dict[str, list[Any]] = {"true": [], "false": []}

    def answer(asked: Asked) -> Answer:
        return Answer(200, json.dumps(listed[asked.query["nested"]]), {"Content-Type": "application/json"})

    with Web(answer) as web:
        broker = AlpacaBroker("ALPHA", web.url, "key", "secret")
        if short:
            assert len(await broker.open_orders()) == 0
        listed[nested] = [kept]
        assert [order.id for order in (await broker.open_orders()).items] == [kept["id"]]
        await broker.aclose()
