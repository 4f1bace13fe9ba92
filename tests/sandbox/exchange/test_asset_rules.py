"""What crypto, options, fractions and dust may and may not, in memory and with a clock in the test's hand."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from breaker.orders import OrderType, Side, TimeInForce
from sandbox.exchange.assets import asset_of
from sandbox.exchange.closable import closable
from sandbox.exchange.exchange import Exchange
from sandbox.exchange.orders import LegRequest, OrderClass, OrderRequest, PaperOrder, Status
from sandbox.exchange.refusal import Refusal
from sandbox.exchange.scenario import Session, parse

Market = Callable[..., Exchange]
CALL, HIGHER_CALL, PUT = "SPY261218C00600000", "SPY261218C00610000", "SPY261218P00600000"
COINS = '[prices]\n"BTC/USD" = 95000\n"SHIB/USD" = 0.00001234\n'
CLOSED = '[market]\nsession = "closed"\n'
SPREAD = f"""
positions = [{{ symbol = "{CALL}", qty = -2, price = 4 }}, {{ symbol = "{HIGHER_CALL}", qty = 3, price = 2.5 }}]
"""


def order(symbol: str, side: Side, qty: str, limit: str | None = None, **fields: object) -> OrderRequest:
    terms: dict[str, object] = {
        "symbol": symbol,
        "side": side,
        "type": OrderType.MARKET if limit is None else OrderType.LIMIT,
        "time_in_force": TimeInForce.GTC if "/" in symbol else TimeInForce.DAY,
        "qty": Decimal(qty),
        "limit_price": None if limit is None else Decimal(limit),
    }
    return OrderRequest(**terms | fields)  # type: ignore[arg-type]


def spread(qty: str, limit: str | None, *legs: LegRequest) -> OrderRequest:
    return order("", Side.BUY, qty, limit, order_class=OrderClass.MLEG, legs=legs)


def leg(symbol: str, side: Side, ratio: str = "1") -> LegRequest:
    return LegRequest(symbol, side, Decimal(ratio))


OPENING = (leg(CALL, Side.BUY), leg(HIGHER_CALL, Side.SELL))


def quantities(exchange: Exchange) -> dict[str, Decimal]:
    return {symbol: position.qty for symbol, position in exchange.book.positions.items()}


def submitted(exchange: Exchange, request: OrderRequest) -> PaperOrder:
    placed = exchange.submit(request)
    exchange.advance(exchange.now)
    return placed


def test_crypto_trades_round_the_clock_and_equities_wait(market: Market) -> None:
    exchange = market(
        CLOSED
        + """
[[positions]]
symbol = "BTCUSD"
qty = 0.5
[[positions]]
symbol = "AAPL"
qty = 10
"""
    )
    assert submitted(exchange, order("BTC/USD", Side.SELL, "0.2")).status is Status.FILLED
    assert submitted(exchange, order("AAPL", Side.SELL, "10")).status is Status.ACCEPTED
    assert quantities(exchange) == {"BTC/USD": Decimal("0.3"), "AAPL": 10}


def test_what_the_session_ends_does_not_end_crypto(market: Market) -> None:
    exchange = market(COINS)
    resting = exchange.submit(order("BTC/USD", Side.BUY, "0.1", "90000"))
    exchange.matching.change_session(Session.CLOSED)
    assert resting.is_open
    exchange.matching.set_price("BTC/USD", Decimal(89_000))
    exchange.advance(1)
    assert quantities(exchange) == {"BTC/USD": Decimal("0.1")}


@pytest.mark.parametrize(
    ("request_", "words", "rule"),
    [
        (order("BTC/USD", Side.BUY, "0.1", time_in_force=TimeInForce.DAY), "invalid crypto time_in_force", "time in"),
        (order("SHIB/USD", Side.BUY, "9000000", "0.000012345"), "invalid limit_price 0.000012345", "price step"),
        (order("BTC/USD", Side.BUY, "0.0001"), "cost basis must be >= minimal amount of order 10", "minimum"),
        (order("BTC/USD", Side.BUY, "0.000001"), "order qty must be >= minimal qty of order 0.00001", "minimum"),
        (order("BTC/USD", Side.SELL, "0.1"), r"insufficient balance for BTC \(requested: 0.1, available: 0\)", ""),
        (order("AAPL", Side.BUY, "1", "100.123"), "sub-penny increment does not fulfill", "price step"),
        (order("AAPL", Side.BUY, "1", "0.12345"), "sub-penny increment does not fulfill", "price step"),
        (order(CALL, Side.BUY, "1.5"), "whole contracts", "quantity step"),
        (order(CALL, Side.BUY, "1", "2.505"), "sub-penny increment does not fulfill", "price step"),
        (order(CALL, Side.BUY, "1", time_in_force=TimeInForce.IOC), "time_in_force provided not supported", "time in"),
        (order(CALL, Side.BUY, "1", "2.50", extended_hours=True), "extended hours are not supported", "session"),
        (order(CALL, Side.SELL, "1"), "not eligible to trade uncovered option contracts", "cover"),
        (spread("1", "2", leg(CALL, Side.BUY)), "2 to 4 legs", "kind of order"),
        (spread("1", "2", leg(CALL, Side.BUY), leg("AAPL", Side.SELL)), "for options only", "kind of order"),
        (spread("1", "2", leg(CALL, Side.BUY, "2"), leg(HIGHER_CALL, Side.SELL, "2")), "relatively prime", "quantity"),
    ],
)
def test_orders_against_the_rules_of_their_asset_are_refused_and_counted(
    market: Market, request_: OrderRequest, words: str, rule: str
) -> None:
    listed = f"AAPL = 200\n{CALL} = 4\n{HIGHER_CALL} = 2.5\n"
    exchange = market(COINS + listed)
    with pytest.raises(Refusal, match=words):
        exchange.submit(request_)
    assert not exchange.book.orders
    assert all(name.startswith(rule) for name in exchange.record.rules_broken) and rule in "".join(
        exchange.record.rules_broken
    )


def test_prices_below_a_dollar_have_four_decimals(market: Market) -> None:
    exchange = market("[prices]\nPENNY = 0.5\n")
    exchange.submit(order("PENNY", Side.BUY, "1", "0.1234"))


def test_an_option_counts_a_hundred_times_and_pays_so(market: Market) -> None:
    exchange = market(f"[account]\nequity = 50000\n[prices]\n{CALL} = 4\n")
    before = exchange.book.cash
    submitted(exchange, order(CALL, Side.BUY, "2", "4.00"))
    assert exchange.book.cash == before - 800
    assert exchange.book.equity == before


def test_a_market_order_for_an_option_is_not_queued_but_a_limit_is(market: Market) -> None:
    exchange = market(CLOSED + f'[[positions]]\nsymbol = "{CALL}"\nqty = 3\nprice = 4\n')
    with pytest.raises(Refusal, match="options market orders are only allowed during market hours"):
        exchange.submit(order(CALL, Side.SELL, "3"))
    waiting = submitted(exchange, order(CALL, Side.SELL, "3", "3.50"))
    assert waiting.status is Status.ACCEPTED
    exchange.matching.change_session(Session.EXTENDED)
    exchange.advance(1)
    assert waiting.is_open
    exchange.matching.change_session(Session.OPEN)
    exchange.advance(2)
    assert quantities(exchange) == {}


def test_the_long_leg_covers_the_short_until_that_is_bought_back(market: Market) -> None:
    exchange = market(SPREAD)
    with pytest.raises(Refusal, match="uncovered"):
        exchange.submit(order(HIGHER_CALL, Side.SELL, "2"))
    submitted(exchange, order(HIGHER_CALL, Side.SELL, "1"))  # the third covers nothing
    submitted(exchange, order(CALL, Side.BUY, "2"))
    submitted(exchange, order(HIGHER_CALL, Side.SELL, "2"))
    assert quantities(exchange) == {}


def test_shares_cover_a_short_call_and_a_put_does_not(market: Market) -> None:
    exchange = market(
        f"""
[[positions]]
symbol = "{CALL}"
qty = -1
price = 4
[[positions]]
symbol = "{PUT}"
qty = 5
price = 3
[[positions]]
symbol = "SPY"
qty = 150
price = 590
"""
    )
    submitted(exchange, order(PUT, Side.SELL, "5"))
    submitted(exchange, order("SPY", Side.SELL, "50"))
    with pytest.raises(Refusal, match="uncovered"):
        exchange.submit(order("SPY", Side.SELL, "1"))
    submitted(exchange, order(CALL, Side.BUY, "1"))
    submitted(exchange, order("SPY", Side.SELL, "100"))
    assert quantities(exchange) == {}


def test_a_venue_that_lets_a_short_go_uncovered_reports_it(market: Market) -> None:
    exchange = market("enforce_available = false\n" + SPREAD)
    exchange.submit(order(HIGHER_CALL, Side.SELL, "3"))
    assert f"left the short {CALL} uncovered" in str(exchange.record.as_dict()["violations"])


def test_legs_fill_together_at_the_net_price(market: Market) -> None:
    exchange = market(f"[prices]\n{CALL} = 4\n{HIGHER_CALL} = 2.5\n")
    resting = submitted(exchange, spread("2", "1.40", *OPENING))
    assert quantities(exchange) == {}
    exchange.matching.set_price(HIGHER_CALL, Decimal("2.60"))
    exchange.advance(1)
    assert resting.status is Status.FILLED and {each.status for each in resting.legs} == {Status.FILLED}
    assert quantities(exchange) == {CALL: 2, HIGHER_CALL: -2}
    assert [(fill.symbol, int(fill.qty)) for fill in exchange.book.fills] == [(CALL, 2), (HIGHER_CALL, 2)]


def test_legs_are_cancelled_with_their_order_and_not_by_themselves(market: Market) -> None:
    exchange = market(f"[prices]\n{CALL} = 4\n{HIGHER_CALL} = 2.5\n")
    resting = submitted(exchange, spread("2", "0.10", *OPENING))
    with pytest.raises(Refusal, match="leg of a multi-leg order cannot be canceled by itself"):
        exchange.cancel(resting.legs[0].id)
    (cancelled,) = exchange.cancel_all()
    assert cancelled == (resting, None)
    exchange.advance(1)
    assert {each.status for each in (resting, *resting.legs)} == {Status.CANCELED}
    assert exchange.book.is_flat


def test_the_legs_of_a_closing_order_hold_what_they_would_close(market: Market) -> None:
    exchange = market(SPREAD)
    submitted(exchange, spread("2", "0.10", leg(CALL, Side.BUY), leg(HIGHER_CALL, Side.SELL)))
    available = {symbol: exchange.book.available(position) for symbol, position in exchange.book.positions.items()}
    assert available == {CALL: 0, HIGHER_CALL: 1}


def test_fractions_go_as_limits_in_extended_hours_unless_the_venue_says_otherwise(market: Market) -> None:
    toml = '[market]\nsession = "extended"\n[[positions]]\nsymbol = "AAPL"\nqty = 10.5\n'
    request = order("AAPL", Side.SELL, "10.5", "95", extended_hours=True)
    assert submitted(market(toml), request).status is Status.FILLED
    with pytest.raises(Refusal, match="fractional orders are not allowed in extended hours"):
        market("fractions_outside_session = false\n" + toml).submit(request)


def test_dust_is_below_the_minimum_and_nothing_can_be_done(market: Market) -> None:
    exchange = market('[[positions]]\nsymbol = "BTCUSD"\nqty = 0.000000005\n')
    with pytest.raises(Refusal, match="order qty must be >= minimal qty of order") as error:
        exchange.close_position("BTC/USD")
    assert error.value.status == 403


def test_a_sale_has_a_minimum_cost_only_where_the_scenario_says_so(market: Market) -> None:
    toml = '[[positions]]\nsymbol = "BTCUSD"\nqty = 0.00005\n'
    submitted(market(toml), order("BTC/USD", Side.SELL, "0.00005"))
    with pytest.raises(Refusal, match="cost basis must be >= minimal amount of order 10"):
        market("sales_have_minimum_cost = true\n" + toml).submit(order("BTC/USD", Side.SELL, "0.00005"))


def test_an_assets_rules_can_be_set(market: Market) -> None:
    exchange = market('[assets."SHIB/USD"]\nprice_increment = 0.0000005\nmin_order_size = 10\n' + COINS)
    with pytest.raises(Refusal, match="invalid limit_price"):
        exchange.submit(order("SHIB/USD", Side.BUY, "9000000", "0.0000123"))
    exchange.submit(order("SHIB/USD", Side.BUY, "9000000", "0.0000125"))
    assert asset_of("BRKB").position_symbol == "BRKB"


@pytest.mark.parametrize(
    ("lock", "words"),
    [
        ("trade_suspended_by_user", "new orders are rejected by user request"),
        ("trading_blocked", "trading is blocked"),
        ("account_blocked", "account is blocked"),
    ],
)
def test_a_locked_account_takes_no_order_and_lets_what_works_work(market: Market, lock: str, words: str) -> None:
    exchange = market(f'[account]\n{lock} = true\n[[positions]]\nsymbol = "AAPL"\nqty = 10\n')
    with pytest.raises(Refusal, match=words) as error:
        exchange.submit(order("AAPL", Side.SELL, "10"))
    assert (error.value.status, error.value.body["code"]) == (403, 40310000)


def test_a_calculated_order_is_listed_but_neither_holds_nor_resists(market: Market) -> None:
    toml = """
[[positions]]
symbol = "AAPL"
qty = 10
[[orders]]
symbol = "AAPL"
side = "sell"
qty = 10
limit_price = 300
status = "calculated"
status_for = 5
"""
    exchange = market(toml)
    (listed,) = exchange.book.listed_as_open
    assert exchange.book.available(exchange.book.position("AAPL")) == 10
    with pytest.raises(Refusal, match='order is already in "calculated" state'):
        exchange.cancel(listed.id)
    submitted(exchange, order("AAPL", Side.SELL, "10"))
    assert exchange.book.is_flat
    exchange.advance(5)
    assert listed.status is Status.FILLED and exchange.book.listed_as_open == []


def test_what_the_venue_withholds_is_not_available_though_no_order_holds_it(market: Market) -> None:
    exchange = market('[[positions]]\nsymbol = "AAPL"\nqty = 10\nwithheld = 10\n')
    with pytest.raises(Refusal, match="available: 0") as error:
        exchange.submit(order("AAPL", Side.SELL, "10"))
    assert error.value.body["related_orders"] == []


CLOSABLE = {
    "all of it": ("", {"AAPL": "10.5", "BTCUSD": "0.5", CALL: "3"}),
    "in extended hours no options": ('[market]\nsession = "extended"\n', {"AAPL": "10.5", "BTCUSD": "0.5"}),
    "whole shares": (
        'fractions_outside_session = false\n[market]\nsession = "extended"\n',
        {"AAPL": "10", "BTCUSD": "0.5"},
    ),
    "when closed only crypto": (CLOSED, {"BTCUSD": "0.5"}),
    "not what is halted": ('[[halts]]\nsymbol = "AAPL"\n', {"BTCUSD": "0.5", CALL: "3"}),
    "not while the account is locked": ("[account]\ntrading_blocked = true\n", {}),
    "not what is refused for good": (
        '[[exit_refusals]]\nsymbols = ["AAPL", "BTCUSD"]\n[[exit_refusals]]\nprobability = 0.5\n',
        {CALL: "3"},
    ),
    "not what an order holds that can't be cancelled": (
        '[[orders]]\nsymbol = "AAPL"\nside = "sell"\nqty = 4\nlimit_price = 300\nstatus = "pending_replace"\n',
        {"AAPL": "6.5", "BTCUSD": "0.5", CALL: "3"},
    ),
}
HELD = f"""
[[positions]]
symbol = "AAPL"
qty = 10.5
[[positions]]
symbol = "BTCUSD"
qty = 0.5
[[positions]]
symbol = "ETHUSD"
qty = 0.000000005
[[positions]]
symbol = "{CALL}"
qty = 3
price = 4
"""


@pytest.mark.parametrize("name", CLOSABLE)
def test_the_exchange_knows_what_could_be_closed(market: Market, name: str) -> None:
    toml, wanted = CLOSABLE[name]
    exchange = market(toml + HELD)
    assert closable(exchange, parse(toml + HELD)) == {symbol: Decimal(qty) for symbol, qty in wanted.items()}


def test_what_covers_a_short_can_be_closed_once_the_short_can(market: Market) -> None:
    assert closable(market(SPREAD), parse(SPREAD)) == {CALL: 2, HIGHER_CALL: 3}
    halted = SPREAD + f'[[halts]]\nsymbol = "{CALL}"\n'
    assert closable(market(halted), parse(halted)) == {HIGHER_CALL: 1}


def test_an_assortment_is_what_was_asked_for_and_the_same_for_the_same_seed(market: Market) -> None:
    toml = """[book]
orders = 10
positions = 6
crypto = 3
options = 4
spreads = 2
covered_calls = 1
dust = 2
notional = 3
multi_leg = 4
unreadable_orders = 2
unreadable_positions = 1
"""
    exchange, again, other = market(toml), market(toml), market("seed = 2\n" + toml)
    assert len(exchange.book.positions) == 6 + 3 + 4 + 2 * 2 + 2 + 2
    parents = [each for each in exchange.book.open_orders.values() if not each.goes_with_parent]
    assert len(parents) == 10 + 3 + 4 + 3 + 4
    assert sum(each.notional is not None for each in parents) == 3
    assert sum(bool(each.joint_legs) for each in parents) == 4
    assert sum(each.unreadable for each in parents) == 2
    assert quantities(exchange) == quantities(again) != quantities(other)
    assert all(exchange.book.available(position) >= 0 for position in exchange.book.positions.values())
    assert all(each.submitted_at < 0 for each in parents)
