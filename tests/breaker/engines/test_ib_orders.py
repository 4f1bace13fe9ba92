"""Contracts and orders of ib_async as the gate reads them: what can't be told apart is not understood."""

from __future__ import annotations

from decimal import Decimal

import pytest
from ib_async import CFD, Bag, ComboLeg, Contract, Forex, Future, LimitOrder, MarketOrder, Option, Order, Stock

from breaker.engines.ib_orders import Contracts, NotUnderstood, exercise_of, intent_of, plain_symbol
from breaker.gate import ListKind, OrderIntent, OrderList
from breaker.orders import Side

AAPL = Contract(secType="STK", conId=1, symbol="AAPL", currency="USD", localSymbol="AAPL", tradingClass="NMS")
CALL = Contract(
    secType="OPT",
    conId=2,
    symbol="AAPL",
    currency="USD",
    localSymbol="AAPL  261218C00150000",
    lastTradeDateOrContractMonth="20261218",
    strike=150.0,
    right="C",
    multiplier="100",
    tradingClass="AAPL",
)
ES = Contract(
    secType="FUT",
    conId=3,
    symbol="ES",
    currency="USD",
    localSymbol="ESZ6",
    lastTradeDateOrContractMonth="20261218",
    multiplier="50",
    tradingClass="ES",
)
KNOWN = Contracts([AAPL, CALL, ES])


@pytest.mark.parametrize(
    ("contract", "symbol"),
    [
        (Stock("AAPL", "SMART", "USD"), "AAPL"),
        (Stock("SAP", "SMART", "EUR"), "SAP.EUR"),
        (Forex("EURUSD"), "EUR.USD"),
        (Option("AAPL", "20261218", 150, "CALL", "SMART"), "AAPL261218C00150000"),
        (Contract(conId=3, exchange="CME"), "ESZ6"),
        (Future("ES", "202612", "CME"), "ESZ6"),
    ],
)
def test_a_symbol_is_spelled_as_the_adapter_spells_it(contract: Contract, symbol: str) -> None:
    assert KNOWN.symbol_of(contract) == symbol


@pytest.mark.parametrize(
    "contract",
    [
        Contract(conId=9, exchange="SMART"),  # which one?
        Stock("AAPL", "SMART", "USD", conId=9),  # another one of that name than the one held
        CFD("AAPL", "SMART", "USD", localSymbol="AAPL"),  # no share
        Option("AAPL", "20261218", 150, "C", "SMART", multiplier="10"),
        Future("ES", "", "CME"),
        Stock("AAPL", "SMART", "USD", secIdType="ISIN", secId="US88160R1014"),
    ],
)
def test_what_may_be_another_contract_is_not_understood(contract: Contract) -> None:
    with pytest.raises(NotUnderstood):
        KNOWN.symbol_of(contract)


def test_a_combination_is_its_legs() -> None:
    legs = [ComboLeg(conId=2, ratio=1, action="BUY"), ComboLeg(conId=1, ratio=100, action="SELL")]
    bag = Bag(symbol="AAPL", comboLegs=legs)
    sold = intent_of(bag, LimitOrder("SELL", 3, 1.0), KNOWN)
    assert isinstance(sold, OrderList) and sold.kind is ListKind.LEGS
    assert [(leg.symbol, leg.side, leg.quantity) for leg in sold.orders] == [
        ("AAPL261218C00150000", Side.SELL, 3),
        ("AAPL", Side.BUY, 300),
    ]
    with pytest.raises(NotUnderstood, match="leg 9"):
        intent_of(Bag(comboLegs=[ComboLeg(conId=9, ratio=1, action="BUY")]), LimitOrder("SELL", 3, 1.0), KNOWN)


def test_an_exercise_gives_options_and_takes_shares() -> None:
    brought = exercise_of(CALL, 2, KNOWN)
    assert [(leg.symbol, leg.side, leg.quantity) for leg in brought.orders] == [
        ("AAPL261218C00150000", Side.SELL, 2),
        ("AAPL", Side.BUY, 200),
    ]
    with pytest.raises(NotUnderstood):
        exercise_of(ES, 1, KNOWN)


def test_an_order_for_an_amount_of_money_has_no_known_quantity() -> None:
    intent = intent_of(Stock("AAPL", "SMART", "USD"), Order(action="BUY", orderType="MKT", cashQty=500), KNOWN)
    assert isinstance(intent, OrderIntent) and intent.quantity is None and intent.notional == 500


def test_what_can_be_no_order_is_malformed_and_not_hidden() -> None:
    for order in (MarketOrder("BUY", 0), MarketOrder("BUY", float("nan")), MarketOrder("HOLD", 1)):
        assert intent_of(Stock("AAPL", "SMART", "USD"), order, KNOWN).malformed


def test_the_rest_of_an_order_is_what_may_still_fill() -> None:
    rest = intent_of(AAPL, LimitOrder("SELL", 100, 1.0), KNOWN, filled=Decimal(40))
    assert isinstance(rest, OrderIntent) and rest.quantity == 60


def test_a_contract_itself_may_tell_too_little() -> None:
    assert not plain_symbol(Future("ES", "202612", "CME")) and not plain_symbol(Contract(conId=1))
