"""What a contract of Interactive Brokers is called here, its steps, and when its market is open."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import ib_async
import pytest
from ib_async import Contract, ContractDetails

from breaker.instruments import AssetClass, Session
from brokers.ib.contracts import (
    Symbols,
    base_symbol,
    expired_on,
    plain_instrument,
    read_bands,
    read_details,
    read_hours,
    route_of,
)
from brokers.ib.reading import TwsError, amount, cancelled, newest_of_each, read_fill, refused
from brokers.protocol import CancelOutcome, Refusal

D = Decimal
NEW_YORK = "20240722:0400-20240722:2000;20240723:CLOSED;20240724:0400-20240724:2000"
LIQUID = "20240722:0930-20240722:1600;20240723:CLOSED;20240724:0930-20240724:1600"


def at(hour: int, minute: int = 0, day: int = 22) -> datetime:
    return datetime(2024, 7, day, hour, minute, tzinfo=UTC)


def details(contract: Contract, **more: Any) -> ContractDetails:
    told = {"tradingHours": NEW_YORK, "liquidHours": LIQUID, "timeZoneId": "US/Eastern", **more}
    return ContractDetails(contract=contract, **told)


@pytest.mark.parametrize(
    ("contract", "symbol"),
    [
        (ib_async.Stock("AAPL", "SMART", "USD"), "AAPL"),
        (ib_async.Stock("SAP", "IBIS", "EUR"), "SAP.EUR"),
        (ib_async.Option("SPY", localSymbol="SPY   261218C00600000"), "SPY261218C00600000"),
        (ib_async.Future("ES", localSymbol="ESZ6"), "ESZ6"),
        (Contract(secType="FOP", symbol="ES", localSymbol="ESZ6 C4500"), "ESZ6C4500"),
        (ib_async.Forex("EURUSD"), "EUR.USD"),
        (ib_async.Crypto("BTC", "PAXOS", "USD"), "BTCUSD"),
        (Contract(secType="BOND", symbol="IBCID1", conId=5), "BOND:IBCID1"),
    ],
)
def test_each_kind_has_a_symbol(contract: Contract, symbol: str) -> None:
    assert base_symbol(contract) == symbol


def test_two_contracts_of_one_symbol_are_told_apart() -> None:
    symbols = Symbols()
    one, other = (Contract(secType="STK", symbol="VUSD", currency="USD", conId=number) for number in (1, 2))
    symbols.add(one)
    assert symbols.name(one) == "VUSD" and symbols.contract("VUSD") is one
    symbols.add(other)
    assert (symbols.name(one), symbols.name(other)) == ("VUSD#1", "VUSD#2")
    assert symbols.contract("VUSD#2") is other and symbols.contract("VUSD") is None
    assert symbols.name_of_id(1) == "VUSD#1" and symbols.name_of_id(9) == "#9"


def test_a_session_is_that_of_the_contracts_own_exchange() -> None:
    hours = read_hours(details(Contract()))
    assert hours is not None
    assert [hours.clock(moment).is_open for moment in (at(13, 29), at(13, 30), at(19, 59), at(20))] == [
        False,
        True,
        True,
        False,
    ]
    assert [hours.trades_at(moment) for moment in (at(7, 59), at(8), at(23, 59), at(0, 1, 23))] == [
        False,
        True,
        True,
        False,
    ]
    clock = hours.clock(at(21))
    assert clock.next_open == at(13, 30, 24) and clock.next_close == at(20, 0, 24)


@pytest.mark.parametrize(
    ("text", "zone"),
    [
        ("20240722:0400-2000,20240723:CLOSED", "EST (Eastern Standard Time)"),
        ("20240722:0400-20240722:2000", "US/Eastern"),
    ],
)
def test_hours_of_older_versions_are_read_too(text: str, zone: str) -> None:
    hours = read_hours(details(Contract(), tradingHours=text, liquidHours=text, timeZoneId=zone))
    assert hours is not None and hours.trading == ((at(8), at(0, 0, 23)),)


@pytest.mark.parametrize(
    "more",
    [{"timeZoneId": "Nowhere/Town"}, {"timeZoneId": ""}, {"tradingHours": ""}, {"tradingHours": "20240722:04-x"}],
)
def test_hours_that_are_not_told_are_not_known(more: dict[str, str]) -> None:
    assert read_hours(details(Contract(), **more)) is None


def test_steps_sizes_and_routing_are_the_venues() -> None:
    future = Contract(secType="FUT", symbol="ES", exchange="CME", multiplier="50", currency="USD")
    read = read_details(details(future, minTick=0.25, minSize=1.0, sizeIncrement=1.0, validExchanges="CME"))
    assert (read.instrument.asset_class, read.instrument.multiplier) == (AssetClass.FUTURE, D(50))
    assert (read.instrument.price_increment, read.instrument.quantity_increment) == (D("0.25"), D("1.0"))
    assert read.instrument.session is Session.REGULAR and read.exchange == "CME"
    held = Contract(secType="FUT", symbol="ES", conId=1)
    assert route_of(held, read) == "CME"


def test_a_stocks_step_is_the_rules_unless_the_venue_has_a_coarser_one() -> None:
    stock = ib_async.Stock("AAPL", "SMART", "USD")
    fine = read_details(
        details(stock, minTick=0.0001, minSize=0.0001, sizeIncrement=0.0001, validExchanges="SMART,NYSE")
    )
    assert fine.instrument.price_increment is None and fine.instrument.tick(D(200)) == D("0.01")
    coarse = read_details(details(stock, minTick=0.05, validExchanges="SMART"))
    assert coarse.instrument.price_increment == D("0.05")
    assert route_of(Contract(secType="STK"), fine) == "SMART"


def test_the_price_rule_is_that_of_the_exchange_where_it_is_traded() -> None:
    stock = ib_async.Stock("SAP", "SMART", "EUR")
    told = details(stock, validExchanges="IBIS,SMART,FWB", marketRuleIds="67,26,93")
    assert read_details(told).rule == 26
    assert read_details(details(stock, validExchanges="IBIS", marketRuleIds="")).rule is None


def test_bands_are_in_order_and_make_sense_or_there_are_none() -> None:
    told = [ib_async.PriceIncrement(1.0, 0.01), ib_async.PriceIncrement(0.0, 0.0001)]
    assert read_bands(told) == ((D(0), D("0.0001")), (D(1), D("0.01")))
    assert read_bands([ib_async.PriceIncrement(0.0, 0.0)]) == ()


def test_what_the_contract_tells_is_enough_until_the_venue_has_told_more() -> None:
    option = plain_instrument(Contract(secType="OPT", multiplier="100"))
    assert (option.asset_class, option.multiplier, option.quantity_increment) == (AssetClass.OPTION, D(100), D(1))
    assert plain_instrument(Contract(secType="CASH")).asset_class is AssetClass.FOREX
    assert route_of(Contract(secType="CASH"), None) == "IDEALPRO"
    assert route_of(Contract(secType="FUT"), None) == ""


def test_a_pair_is_traded_in_whole_units_however_fine_a_step_is_told() -> None:
    pair = ib_async.Forex("EURUSD")
    told = read_details(details(pair, minTick=0.00005, minSize=1e-7, sizeIncrement=1e-7, validExchanges="IDEALPRO"))
    assert told.instrument.quantity(D("20000.37")) == 20_000
    metal = read_details(details(Contract(secType="CMDTY", symbol="XAUUSD"), sizeIncrement=0.01))
    assert metal.instrument.quantity_increment == D("0.01")


def test_what_trades_at_night_is_open_by_its_trading_hours() -> None:
    hours = read_hours(details(Contract()))
    assert hours is not None
    night, day = at(22), at(12, day=23)
    assert not hours.clock(night).is_open
    assert hours.clock(night, AssetClass.FUTURE).is_open and hours.clock(night, AssetClass.FOREX).is_open
    assert hours.clock(day, AssetClass.FUTURE).next_open == at(8, day=24)


@pytest.mark.parametrize(
    ("told", "now", "expired"),
    [
        ("20240719", at(12), date(2024, 7, 19)),
        ("20240721", at(12), None),  # it may be that day still, somewhere
        ("20240722", at(12), None),
        ("202407", at(12), None),
        ("", at(12), None),
        ("20240331 19:30:00 GB", at(12), date(2024, 3, 31)),
    ],
)
def test_what_has_expired_is_known_by_its_last_day(told: str, now: datetime, expired: date | None) -> None:
    assert expired_on(Contract(secType="FUT", lastTradeDateOrContractMonth=told), now) == expired


@pytest.mark.parametrize(
    ("value", "exact"),
    [(100.0, D(100)), (0.1, D("0.1")), (2081371784.8791894, D("2081371784.87918")), (-0.00001, D("-0.00001"))],
)
def test_a_quantity_is_never_read_as_more_than_it_is(value: float, exact: Decimal) -> None:
    assert amount(value) == exact


def test_what_an_order_may_take_is_never_read_as_less_than_it_is() -> None:
    assert amount(765132882.8828829, at_least=True) == D("765132882.882883")
    assert amount(100.0, at_least=True) == 100 and amount(0.1, at_least=True) == D("0.1")


@pytest.mark.parametrize("value", [1.7976931348623157e308, float("nan"), float("inf")])
def test_what_is_not_set_is_no_number(value: float) -> None:
    with pytest.raises(ValueError, match="is no number"):
        amount(value)


def test_a_correction_stands_for_the_execution_that_it_corrects() -> None:
    stock = ib_async.Stock("AAPL", "SMART", "USD", conId=1)
    symbols = Symbols()
    symbols.add(stock)

    def fill(execution_id: str, shares: float) -> Any:
        execution = ib_async.Execution(
            execId=execution_id,
            time=at(15),
            side="SLD",
            shares=shares,
            price=10.0,
            permId=7,
            cumQty=shares,
            orderRef="r",
        )
        return read_fill(execution, stock, None, symbols)

    (newest,) = newest_of_each([fill("0000e0d5.1.01.01", 100.0), fill("0000e0d5.1.01.02", 90.0)])
    assert (newest.quantity, newest.client_order_id, newest.fee) == (D(90), "r", None)


@pytest.mark.parametrize(
    ("code", "words", "outcome"),
    [
        (202, "Order Canceled - reason:", CancelOutcome.ACCEPTED),
        (10147, "OrderId 5 that needs to be cancelled is not found.", CancelOutcome.NOT_OPEN),
        (10148, "OrderId 5 that needs to be cancelled can not be cancelled, state: Filled.", CancelOutcome.NOT_OPEN),
        (
            10148,
            "OrderId 5 that needs to be cancelled can not be cancelled, state: PendingCancel.",
            CancelOutcome.ACCEPTED,
        ),
        (161, "Cancel attempted when order is not in a cancellable state", CancelOutcome.REFUSED),
    ],
)
def test_what_tws_says_of_a_cancel(code: int, words: str, outcome: CancelOutcome) -> None:
    assert cancelled("5", TwsError(code, words)).outcome is outcome


@pytest.mark.parametrize(
    ("code", "words", "refusal"),
    [
        (110, "The price does not conform to the minimum price variation for this contract.", Refusal.PRICE_STEP),
        (10243, "Fractional-sized order cannot be placed via API.", Refusal.FRACTION),
        (201, "Order rejected - reason:Order size is below the minimum size of 0.0001", Refusal.BELOW_MINIMUM),
        (201, "Order rejected - reason:YOUR ORDER IS NOT ACCEPTED. IN ORDER TO OBTAIN THE POSITION", Refusal.OTHER),
    ],
)
def test_what_tws_says_of_a_close_that_it_refuses(code: int, words: str, refusal: Refusal) -> None:
    result = refused("AAPL", TwsError(code, words))
    assert result.refusal is refusal and result.code == str(code)
    assert "Order rejected - reason:" not in result.reason
