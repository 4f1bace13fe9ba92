"""What the account monitor asks of the Alpaca adapter, against a real HTTP venue: equity, transfers, quotes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from brokers.alpaca import AlpacaBroker
from brokers.alpaca.adapter import DATA_URL
from brokers.alpaca.reading import read_account, read_transfers
from brokers.protocol import BrokerUnavailable, Transfer, TransferKind
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread

DIVIDEND = {
    "activity_type": "DIV",
    "id": "20190801011955195::5f596936-6f23-4cef-bdf1-3806aae57dbf",
    "date": "2019-08-01",
    "net_amount": "1.02",
    "symbol": "T",
    "qty": "2",
    "per_share_amount": "0.51",
}
"""As in Alpaca's documentation of account activities."""


@pytest.fixture
async def broker(server: PaperExchangeThread) -> AsyncIterator[AlpacaBroker]:
    broker = AlpacaBroker("ALPHA", server.url, "key", "secret", timeout=5)
    yield broker
    await broker.aclose()


def long_ago() -> datetime:
    return datetime.now(UTC) - timedelta(days=3)


async def test_a_price_move_and_money_in_and_out_change_the_equity(
    server: PaperExchangeThread, broker: AlpacaBroker
) -> None:
    server.restart(
        parse('account.equity = 100000\nprices.AAPL = 200\n[[positions]]\nsymbol = "AAPL"\nqty = 100\nprice = 200\n')
    )
    assert (await broker.account()).equity == 100_000
    server.control("price", {"symbol": "AAPL", "price": "140"})
    assert (await broker.account()).equity == 94_000
    server.control("transfer", {"amount": "-5000"})
    assert (await broker.account()).equity == 89_000


async def test_transfers_of_every_kind_and_page_are_listed_and_trades_are_not(
    server: PaperExchangeThread, broker: AlpacaBroker
) -> None:
    many = "".join(f"[[transfers]]\nat = 0\namount = {number + 1}\n" for number in range(205))
    server.restart(parse(f'rate_limit = 1000\n[[positions]]\nsymbol = "AAPL"\nqty = 100\nprice = 200\n{many}'))
    for amount, kind in (("-70.5", None), ("1.02", "DIV"), ("-30", "JNLC")):
        server.control("transfer", {"amount": amount, "kind": kind})
    await broker.close_all()
    listed = await broker.transfers(long_ago())
    assert [transfer.amount for transfer in listed][:205] == [Decimal(number + 1) for number in range(205)]
    assert [(transfer.amount, transfer.kind) for transfer in listed][205:] == [
        (Decimal("-70.5"), TransferKind.WITHDRAWAL),
        (Decimal("1.02"), TransferKind.DIVIDEND),
        (Decimal(-30), TransferKind.JOURNAL),
    ]
    assert len({transfer.id for transfer in listed}) == 208
    assert len(await broker.fills(long_ago())) == 1
    assert not await broker.transfers(datetime.now(UTC) + timedelta(days=2))


def test_a_transfer_is_read_as_the_venue_writes_it_and_one_that_was_undone_is_none() -> None:
    undone = {**DIVIDEND, "status": "canceled"}
    senseless = {**DIVIDEND, "id": "b", "net_amount": "much"}
    dividend, unreadable = read_transfers([DIVIDEND, undone, senseless])
    assert dividend == Transfer(
        str(DIVIDEND["id"]), Decimal("1.02"), datetime(2019, 8, 1, tzinfo=UTC), TransferKind.DIVIDEND, by_day=True
    )
    assert str(unreadable) == "the venue's transfer b can't be read: 'much' is not a number"


async def test_quotes_tell_when_each_kind_of_symbol_was_last_quoted(
    server: PaperExchangeThread, broker: AlpacaBroker
) -> None:
    option = "AAPL261218C00200000"
    server.restart(parse(f'prices.AAPL = 200\nprices."BTC/USD" = 60000\nprices.{option} = 4\n'))
    for symbol in ("AAPL", "BTC/USD", option):
        before = await broker.latest_quote(symbol)
        assert timedelta() <= datetime.now(UTC) - before < timedelta(seconds=30)
        server.control("quotes", {"symbol": symbol, "silent": True})
        silent = await broker.latest_quote(symbol)
        assert await broker.latest_quote(symbol) == silent
        server.control("quotes", {"symbol": symbol, "silent": False})
        assert await broker.latest_quote(symbol) > silent
    with pytest.raises(BrokerUnavailable, match="the venue's latest quote can't be understood"):
        await broker.latest_quote("NONE")


@pytest.mark.parametrize(
    ("base_url", "given", "expected"),
    [
        ("https://paper-api.alpaca.markets", None, DATA_URL),
        ("http://127.0.0.1:8080/v2", None, "http://127.0.0.1:8080"),
        (
            "https://paper-api.alpaca.markets",
            "https://data.sandbox.alpaca.markets/",
            "https://data.sandbox.alpaca.markets",
        ),
        ("https://notalpaca.markets", None, "https://notalpaca.markets"),
    ],
)
def test_market_data_are_asked_where_they_are(base_url: str, given: str | None, expected: str) -> None:
    assert AlpacaBroker("ALPHA", base_url, "key", "secret", data_url=given).data_url == expected


def test_margin_is_told_where_the_venue_tells_it() -> None:
    told = {"account_number": "A", "currency": "USD", "equity": "1", "buying_power": "1"}
    assert read_account(told).maintenance_margin is None
    assert read_account({**told, "initial_margin": "12.5", "maintenance_margin": "7"}).initial_margin == Decimal("12.5")
