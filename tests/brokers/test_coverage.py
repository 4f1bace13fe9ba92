"""What a kill switch of a scope touches, and what it is refused for. Pure."""

from __future__ import annotations

from decimal import Decimal

import pytest

from breaker.errors import InvalidInput
from breaker.orders import Order, OrderStatus, OrderType, Position, Side, TimeInForce, Unreadable
from brokers.coverage import Coverage, coverage_of, named_in
from brokers.protocol import Listed
from configuration.settings import Settings

ACCOUNTS = ("ALPHA", "BETA")
CALL = "AAPL261218C00200000"
PUT_OF_BRK = "BRKB261218P00400000"


def order(symbol: str, client_order_id: str = "x", *, parent: str = "") -> Order:
    return Order(
        id=f"{symbol} {client_order_id}",
        client_order_id=client_order_id,
        symbol=symbol,
        side=Side.BUY,
        quantity=Decimal(1),
        filled_quantity=Decimal(0),
        status=OrderStatus.NEW,
        type=OrderType.LIMIT,
        time_in_force=TimeInForce.DAY,
        parent_id=parent,
    )


def position(symbol: str) -> Position:
    return Position(symbol, Decimal(1), Decimal(1), average_entry_price=Decimal(1))


def symbols(listed: Listed[Order] | Listed[Position]) -> list[str]:
    return [item.symbol for item in listed.items]


@pytest.mark.parametrize(
    ("scope", "asked", "tripped", "accounts"),
    [
        ("global", (), "global", ACCOUNTS),
        ("global", ("BETA",), "global", ("BETA",)),
        ("global", ("beta", "BETA", "alpha"), "global", ("BETA", "ALPHA")),
        ("account:ALPHA", (), "account:ALPHA", ("ALPHA",)),
        ("account:ALPHA", ("ALPHA",), "account:ALPHA", ("ALPHA",)),
        ("account:alpha", (), "account:ALPHA", ("ALPHA",)),
        ("symbol:AAPL", (), "symbol:AAPL", ACCOUNTS),
        ("symbol:aapl", ("ALPHA",), "symbol:AAPL", ("ALPHA",)),
        ("strategy:meanrev", (), "strategy:meanrev", ACCOUNTS),
        ("strategy:meanrev", ("BETA",), "strategy:meanrev", ("BETA",)),
    ],
)
def test_what_is_tripped_and_which_accounts_it_covers(
    scope: str, asked: tuple[str, ...], tripped: str, accounts: tuple[str, ...]
) -> None:
    coverage = coverage_of(scope, ACCOUNTS, asked)
    assert (coverage.scope, coverage.accounts) == (tripped, accounts)


@pytest.mark.parametrize(
    ("scope", "asked", "why"),
    [
        ("account:ALPHA", ("BETA",), "The account BETA is outside of the scope account:ALPHA"),
        ("account:ALPHA", ("ALPHA", "BETA"), "The account BETA is outside of the scope account:ALPHA"),
        ("account:GAMMA", (), r"No account GAMMA is configured \(there are: ALPHA, BETA\)"),
        ("global", ("GAMMA",), "No account GAMMA is configured"),
        ("account:ALPHA", ("GAMMA",), "No account GAMMA is configured"),
        ("venue:alpaca", (), "can't tell what venue:alpaca covers"),
        ("desk", (), "can't tell what desk covers"),
        ("account", (), "can't tell what account covers"),
        ("no scope", (), "can't be used"),
    ],
)
def test_what_is_refused_in_one_line_before_anything_is_done(scope: str, asked: tuple[str, ...], why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as refused:
        coverage_of(scope, ACCOUNTS, asked)
    assert "\n" not in str(refused.value)
    assert "nothing" in str(refused.value)


def test_without_an_account_every_scope_can_be_tripped_and_covers_none() -> None:
    for scope in ("global", "account:ALPHA", "symbol:AAPL", "strategy:meanrev"):
        assert coverage_of(scope, ()).accounts == ()


EVERYTHING = ["AAPL", CALL, "MSFT", "BTC/USD", "BRK.B", PUT_OF_BRK]


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        ("global", EVERYTHING),
        ("account:ALPHA", EVERYTHING),
        ("symbol:AAPL", ["AAPL", CALL]),
        (f"symbol:{CALL}", [CALL]),
        ("symbol:BTCUSD", ["BTC/USD"]),
        ("symbol:BRK.B", ["BRK.B", PUT_OF_BRK]),
        ("symbol:AAP", []),
        ("strategy:AAPL", []),
    ],
)
def test_which_symbols_are_covered_with_the_options_on_them(scope: str, covered: list[str]) -> None:
    coverage = coverage_of(scope, ACCOUNTS)
    assert symbols(coverage.of_orders(Listed(tuple(order(symbol) for symbol in EVERYTHING)))) == covered
    assert symbols(coverage.of_positions(Listed(tuple(position(symbol) for symbol in EVERYTHING)))) == covered
    assert [symbol for symbol in EVERYTHING if coverage.covers_symbol(symbol)] == covered


@pytest.mark.parametrize(
    ("client_order_id", "covered"),
    [
        ("meanrev:0192", True),
        ("meanrev-1", True),
        ("meanrev", True),
        ("meanreversion:1", False),
        ("meanrev2-1", False),
        ("MEANREV:1", False),
        ("x:meanrev:1", False),
        ("", False),
    ],
)
def test_a_strategys_orders_are_those_with_its_tag(client_order_id: str, covered: bool) -> None:
    assert coverage_of("strategy:meanrev", ACCOUNTS).covers_order(order("AAPL", client_order_id)) is covered


def test_of_a_strategy_no_position_is_known() -> None:
    coverage = coverage_of("strategy:meanrev", ACCOUNTS)
    assert not coverage.positions_known
    assert not coverage.covers_position(position("AAPL"))
    assert "no position" in coverage.effect


def test_legs_that_can_only_be_cancelled_together_are_covered_together() -> None:
    legs = (order("AAPL", parent="spread"), order("MSFT", parent="spread"), order("MSFT"))
    covered = coverage_of("symbol:AAPL", ACCOUNTS).of_orders(Listed(legs))
    assert covered.items == legs[:2]


@pytest.mark.parametrize(
    ("scope", "item", "may_be_cancelled", "may_be_covered"),
    [
        ("global", Unreadable("order", "", "1", "no side"), True, True),
        ("symbol:AAPL", Unreadable("order", "AAPL", "1", "no side"), True, True),
        ("symbol:AAPL", Unreadable("order", "MSFT", "1", "no side"), False, False),
        ("symbol:AAPL", Unreadable("order", "", "1", "no side"), False, True),
        ("symbol:AAPL", Unreadable("position", CALL, "", "no quantity"), True, True),
        ("strategy:meanrev", Unreadable("order", "AAPL", "1", "no side"), False, True),
        ("strategy:meanrev", Unreadable("position", "AAPL", "", "no quantity"), False, False),
    ],
)
def test_what_cannot_be_read_is_cancelled_only_where_it_is_certain_that_it_is_covered(
    scope: str, item: Unreadable, may_be_cancelled: bool, may_be_covered: bool
) -> None:
    coverage = coverage_of(scope, ACCOUNTS)
    assert coverage.covers_unread(item) is may_be_cancelled
    assert coverage.may_cover_unread(item) is may_be_covered


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ("global", "ALPHA, BETA"),
        ("account:BETA", "BETA"),
        ("symbol:AAPL", "AAPL and the options on it in ALPHA, BETA"),
        ("strategy:meanrev", "the orders of meanrev in ALPHA, BETA"),
    ],
)
def test_what_is_said_of_it_names_the_accounts(scope: str, said: str) -> None:
    assert str(coverage_of(scope, ACCOUNTS)) == said


@pytest.mark.parametrize(
    ("one", "other", "contained"),
    [
        (coverage_of("global", ACCOUNTS), coverage_of("account:ALPHA", ACCOUNTS), True),
        (coverage_of("account:ALPHA", ACCOUNTS), coverage_of("global", ACCOUNTS), False),
        (coverage_of("global", ACCOUNTS), coverage_of("symbol:AAPL", ACCOUNTS), True),
        (coverage_of("symbol:AAPL", ACCOUNTS), coverage_of("symbol:AAPL", ACCOUNTS, ["BETA"]), True),
        (coverage_of("symbol:AAPL", ACCOUNTS), coverage_of("symbol:MSFT", ACCOUNTS), False),
        (coverage_of("symbol:AAPL", ACCOUNTS), coverage_of("account:ALPHA", ACCOUNTS), False),
        (coverage_of("strategy:a", ACCOUNTS), coverage_of("strategy:b", ACCOUNTS), False),
    ],
)
def test_whether_a_run_does_what_another_is_asked_for(one: Coverage, other: Coverage, contained: bool) -> None:
    assert one.contains(other) is contained


def test_a_scope_that_rules_feeds_or_accounts_name_is_known() -> None:
    account = {"base_url": "http://127.0.0.1:1", "key_id": "k", "secret_key": "s"}
    settings = Settings.model_validate(
        {
            "accounts": {"ALPHA": {**account, "monitored_as": "desk:rates"}},
            "rules": {"desk:fx": {}},
            "feeds": {"quotes": {"file": "/var/lib/quotes", "scope": "desk:bonds"}},
        }
    )
    for scope in ("desk:rates", "desk:fx", "desk:bonds", "strategy:any", "account:alpha", "global"):
        assert not named_in(settings, scope).doubt, scope
    assert named_in(settings, "desk:oil").doubt.startswith("desk:oil is none of global")
    assert "(there are: ALPHA)" in named_in(settings, "account:ALHPA").doubt
