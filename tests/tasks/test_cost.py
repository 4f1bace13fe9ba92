"""What an exit cost, worked out by hand and by rules that hold for any book."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breaker.instruments import CRYPTO, EQUITY, OPTION, AssetClass, Instrument
from breaker.orders import Fill, Order, OrderStatus, OrderType, Position, Side, TimeInForce, Unreadable
from brokers.protocol import CloseOutcome, CloseResult
from tasks.kill.account import AccountProgress
from tasks.kill.cost import CostLine, CostSum, ExitCost, Origin, exit_cost, unexplained, without_fills
from tasks.kill.memory import client_order_id
from tasks.kill.notifications import kill_notifications
from tasks.kill.opening_book import OpeningBook
from tasks.kill.report import KillReport

D = Decimal
BEGAN = datetime(2026, 1, 5, 15, 0, tzinfo=UTC)
INCIDENT = "01943c5e-0000-7000-8000-000000000000"
CALL = "SPY261218C00600000"
COINS = "BTC/USD:BTC"
INVERSE = Instrument(AssetClass.PERPETUAL, multiplier=D(100), inverse=True)


def position(
    symbol: str,
    quantity: str,
    price: str | None,
    entry: str = "100",
    instrument: Instrument = EQUITY,
    value: str | None = None,
) -> Position:
    return Position(
        symbol,
        Decimal(quantity),
        abs(Decimal(quantity)),
        Decimal(entry),
        current_price=None if price is None else Decimal(price),
        market_value=None if value is None else Decimal(value),
        instrument=instrument,
    )


def order(order_id: str, symbol: str = "AAPL", *, filled: str = "0", client: str = "theirs") -> Order:
    return Order(
        id=order_id,
        client_order_id=client,
        symbol=symbol,
        side=Side.SELL,
        quantity=Decimal(1000),
        filled_quantity=Decimal(filled),
        status=OrderStatus.NEW,
        type=OrderType.MARKET,
        time_in_force=TimeInForce.DAY,
    )


def fill(order_id: str, quantity: str, price: str, symbol: str = "AAPL", *, at: float = 1.0, **more: str) -> Fill:
    """A negative quantity is a sale."""
    return Fill(
        id=f"{order_id}@{at}",
        order_id=order_id,
        symbol=symbol,
        side=Side.SELL if quantity.startswith("-") else Side.BUY,
        quantity=abs(Decimal(quantity)),
        price=Decimal(price),
        at=BEGAN + timedelta(seconds=at),
        cumulative_quantity=Decimal(more["filled"]) if "filled" in more else None,
        fee=Decimal(more["fee"]) if "fee" in more else None,
        fee_currency=more.get("fee_currency", ""),
    )


@dataclass
class Case:
    before: Sequence[Position]
    fills: Sequence[Fill]
    lines: Sequence[tuple[str, str, Origin, str, str | None, str | None, str | None]]
    """Symbol, side, origin, quantity, slippage, basis points, realised."""
    total: tuple[str | None, str | None, str | None]
    """Of the closes: slippage, basis points, realised."""
    priced: str
    """Of how many closes."""
    after: Sequence[Position] = ()
    unreadable: Sequence[Unreadable] = ()
    there: Sequence[Order] = ()
    """Open when the run began; the closes of this run are named `close…`."""
    fees: str | None = None
    beside: tuple[str | None, str | None, str | None] = (None, None, None)
    """The same of other fills."""
    later: Sequence[Position] = field(default=())
    """A reading after the first one."""


CASES = {
    "a sale below the price at the trip": Case(
        [position("AAPL", "10", "200", "150")],
        [fill("close", "-10", "199.5")],
        [("AAPL", "sell", Origin.CLOSE, "10", "5", "25", "495")],
        ("5", "25", "495"),
        "1 of 1",
    ),
    "a sale above it is a gain": Case(
        [position("AAPL", "10", "200", "250")],
        [fill("close", "-10", "201")],
        [("AAPL", "sell", Origin.CLOSE, "10", "-10", "-50", "-490")],
        ("-10", "-50", "-490"),
        "1 of 1",
    ),
    "a short that is bought back above it": Case(
        [position("MSFT", "-5", "400", "420")],
        [fill("close", "5", "402", "MSFT")],
        [("MSFT", "buy", Origin.CLOSE, "5", "10", "50", "90")],
        ("10", "50", "90"),
        "1 of 1",
    ),
    "partial fills over several orders": Case(
        [position("AAPL", "10", "200", "150")],
        [
            fill("close1", "-3", "200", at=1),
            fill("close1", "-2", "199", at=2),
            fill("close2", "-5", "198", at=3),
        ],
        [("AAPL", "sell", Origin.CLOSE, "10", "12", "60", "488")],
        ("12", "60", "488"),
        "1 of 1",
    ),
    "an option has a multiplier": Case(
        [position(CALL, "-2", "4", "5", OPTION)],
        [fill("close", "2", "4.1", CALL)],
        [(CALL, "buy", Origin.CLOSE, "2", "20", "250", "180")],
        ("20", "250", "180"),
        "1 of 1",
    ),
    "the market value stands in for a price": Case(
        [position(CALL, "-2", None, "5", OPTION, value="-800")],
        [fill("close", "2", "4.1", CALL)],
        [(CALL, "buy", Origin.CLOSE, "2", "20", "250", "180")],
        ("20", "250", "180"),
        "1 of 1",
    ),
    "fees in money, and in what was bought": Case(
        [position("BTCUSD", "-1", "100", "100", CRYPTO)],
        [
            fill("close1", "0.5", "100", "BTCUSD", at=1, fee="0.2", fee_currency="USD"),
            fill("close2", "0.502", "101", "BTCUSD", at=2, fee="0.002", fee_currency="BTC"),
        ],
        [("BTCUSD", "buy", Origin.CLOSE, "1.002", "0.502", "50.1", "-0.5")],
        ("0.502", "50.1", "-0.5"),
        "1 of 1",
        fees="0.402",
    ),
    "a fee in something that has no price here": Case(
        [position("BTCUSD", "1", "100", "100", CRYPTO)],
        [fill("close", "-1", "100", "BTCUSD", fee="0.2", fee_currency="BNB")],
        [("BTCUSD", "sell", Origin.CLOSE, "1", "0", "0", "0")],
        ("0", "0", "0"),
        "1 of 1",
    ),
    "an order that filled while it was being cancelled": Case(
        [position("AAPL", "10", "200", "150")],
        [fill("stop", "-4", "198", at=1, filled="4"), fill("close", "-6", "199", at=2)],
        [
            ("AAPL", "sell", Origin.CLOSE, "6", "6", "50", "294"),
            ("AAPL", "sell", Origin.RACED, "4", "8", "100", "192"),
        ],
        ("6", "50", "294"),
        "1 of 1",
        beside=("8", "100", "192"),
        there=[order("stop")],
    ),
    "one that had filled in part before": Case(
        [position("AAPL", "10", "200", "150")],
        [
            fill("stop", "-7", "210", at=-5, filled="7"),
            fill("stop", "-4", "198", at=-0.5, filled="11"),
            fill("close", "-6", "199"),
        ],
        [
            ("AAPL", "sell", Origin.CLOSE, "6", "6", "50", "294"),
            ("AAPL", "sell", Origin.RACED, "4", "8", "100", "192"),
        ],
        ("6", "50", "294"),
        "1 of 1",
        beside=("8", "100", "192"),
        there=[order("stop", filled="7")],
    ),
    "it filled before the position was first read": Case(
        [position("AAPL", "6", "200", "150")],
        [fill("stop", "-4", "198", filled="4"), fill("close", "-6", "199", at=2)],
        [
            ("AAPL", "sell", Origin.CLOSE, "6", "6", "50", "294"),
            ("AAPL", "sell", Origin.RACED, "4", "8", "100", "192"),
        ],
        ("6", "50", "294"),
        "1 of 1",
        beside=("8", "100", "192"),
        there=[order("stop")],
    ),
    "it added to the position before that was first read": Case(
        [position("AAPL", "10", "200", "160")],
        [fill("entry", "4", "202", filled="4"), fill("close", "-10", "199", at=2)],
        [
            ("AAPL", "sell", Origin.CLOSE, "10", "10", "50", "390"),
            ("AAPL", "buy", Origin.RACED, "4", "8", "100", "0"),
        ],
        ("10", "50", "390"),
        "1 of 1",
        beside=("8", "100", "0"),
        there=[order("entry")],
    ),
    "it turned the position over": Case(
        [position("AAPL", "10", "200", "150")],
        [fill("stop", "-15", "198", filled="15"), fill("close", "5", "201", at=2)],
        [
            ("AAPL", "buy", Origin.CLOSE, "5", "5", "50", "-15"),
            ("AAPL", "sell", Origin.RACED, "15", "30", "100", "480"),
        ],
        ("5", "50", "-15"),
        "1 of 1",
        beside=("30", "100", "480"),
        there=[order("stop")],
    ),
    "it closed all of it before anything was read": Case(
        [],
        [fill("stop", "-4", "198", filled="4")],
        [("AAPL", "sell", Origin.RACED, "4", None, None, None)],
        (None, None, None),
        "0 of 0",
        there=[order("stop")],
    ),
    "a symbol that a late fill entered after the trip": Case(
        [],
        [fill("late", "10", "99", "NVDA", at=3), fill("close", "-10", "98", "NVDA", at=4)],
        [
            ("NVDA", "sell", Origin.CLOSE, "10", "10", "101.01", "-10"),
            ("NVDA", "buy", Origin.OTHER, "10", "0", "0", "0"),
        ],
        ("10", "101.01", "-10"),
        "1 of 1",
        beside=("0", "0", "0"),
        later=[position("NVDA", "10", "99", "99")],
    ),
    "an order for an amount of money": Case(
        [position("AAPL", "10.123", "200", "150")],
        [fill("amount", "0.5", "201", filled="0.5"), fill("close", "-10.623", "200", at=2)],
        [
            ("AAPL", "sell", Origin.CLOSE, "10.623", "0", "0", "505.65"),
            ("AAPL", "buy", Origin.RACED, "0.5", "0.5", "50", "0"),
        ],
        ("0", "0", "505.65"),
        "1 of 1",
        beside=("0.5", "50", "0"),
        there=[order("amount")],
    ),
    "a close of another run of the incident": Case(
        [position("AAPL", "10", "200", "150")],
        [fill("earlier", "-10", "199")],
        [("AAPL", "sell", Origin.CLOSE, "10", "10", "50", "490")],
        ("10", "50", "490"),
        "1 of 1",
        there=[order("earlier", client=client_order_id(INCIDENT, "AAPL", 1))],
    ),
    "what was done before is no part of it": Case(
        [position("AAPL", "10", "200", "150")],
        [fill("long ago", "-90", "210", at=-60), fill("close", "-10", "200")],
        [("AAPL", "sell", Origin.CLOSE, "10", "0", "0", "500")],
        ("0", "0", "500"),
        "1 of 1",
    ),
    "the venue gives no price": Case(
        [position("AAPL", "10", None, "150"), position("MSFT", "1", "400", "390")],
        [fill("close", "-10", "199"), fill("close2", "-1", "399", "MSFT")],
        [
            ("AAPL", "sell", Origin.CLOSE, "10", None, None, "490"),
            ("MSFT", "sell", Origin.CLOSE, "1", "1", "25", "9"),
        ],
        ("1", "25", "499"),
        "1 of 2",
    ),
    "the venue does not say what it was entered at": Case(
        [position("AAPL", "10", "200", "0")],
        [fill("close", "-10", "199")],
        [("AAPL", "sell", Origin.CLOSE, "10", "10", "50", None)],
        ("10", "50", None),
        "1 of 1",
    ),
    "a fill is missing": Case(
        [position("AAPL", "10", "200", "150")],
        [fill("close", "-6", "199")],
        [("AAPL", "sell", Origin.CLOSE, "6", "6", "50", None)],
        ("6", "50", None),
        "0 of 1",
    ),
    "an inverse contract is so much money, and what it costs are coins": Case(
        [position(COINS, "50", "60000", "50000", INVERSE)],
        [
            fill("close", "-20", "59400", COINS),
            fill("close", "-30", "60600", COINS, at=2.0, fee="0.0001", fee_currency="BTC"),
        ],
        [(COINS, "sell", Origin.CLOSE, "50", "-10", "-20", "1012")],
        ("-10", "-20", "1012"),
        "1 of 1",
        fees="6.06",
    ),
    "a short inverse contract gains as the price falls": Case(
        [position(COINS, "-50", "60000", "50000", INVERSE)],
        [fill("close", "50", "60600", COINS)],
        [(COINS, "buy", Origin.CLOSE, "50", "50", "100", "-1060")],
        ("50", "100", "-1060"),
        "1 of 1",
    ),
    "no fill is there yet": Case([position("AAPL", "10", "200", "150")], [], [], (None, None, None), "0 of 1"),
    "a part is left": Case(
        [position("AAPL", "10", "200", "150"), position("MSFT", "1", "400")],
        [fill("close", "-6", "199")],
        [("AAPL", "sell", Origin.CLOSE, "6", "6", "50", "294")],
        ("6", "50", "294"),
        "1 of 1",
        after=[position("AAPL", "4", "199", "150"), position("MSFT", "1", "390")],
    ),
    "what is left can't be read": Case(
        [position("AAPL", "10", "200", "150")],
        [fill("close", "-6", "199")],
        [("AAPL", "sell", Origin.CLOSE, "6", "6", "50", None)],
        ("6", "50", None),
        "0 of 1",
        unreadable=[Unreadable("position", "AAPL", "", "its qty is missing")],
    ),
    "nothing was closed": Case(
        [position("AAPL", "10", "200")], [], [], (None, None, None), "0 of 0", after=[position("AAPL", "10", "190")]
    ),
}


def number(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)


def book_of(case: Case) -> OpeningBook:
    book = OpeningBook()
    book.note_orders(case.there, INCIDENT)
    book.note_positions(case.before, (), 0.2)
    for name in {each.order_id for each in case.fills if each.order_id.startswith("close")}:
        book.note_close(CloseResult("AAPL", CloseOutcome.ACCEPTED, order(name)), name)
    book.note_positions(case.later, (), 3.0)
    book.note_positions(case.after, case.unreadable, 5.0)
    return book


@pytest.mark.parametrize("name", CASES)
def test_worked_out_by_hand(name: str) -> None:
    case = CASES[name]
    cost = exit_cost("ALPHA", "USD", book_of(case), case.fills, BEGAN)
    assert [
        (each.symbol, each.side.value, each.origin, each.quantity, each.slippage, each.basis_points, each.realised)
        for each in cost.lines
    ] == [(*line[:3], *(number(value) for value in line[3:])) for line in case.lines]
    for total, wanted in ((cost.closes, case.total), (cost.beside, case.beside)):
        assert (total.slippage, total.basis_points, total.realised) == tuple(number(value) for value in wanted)
    assert f"{cost.priced} of {cost.closed}" == case.priced
    assert cost.closes.fees == number(case.fees)
    assert cost.closes.fills + cost.beside.fills == len(cost.fills) == sum(line.fills for line in cost.lines)


def test_the_reference_is_the_first_reading_and_the_cost_says_when_that_was() -> None:
    book = OpeningBook()
    book.note_sweep(
        [],
        [{"symbol": "AAPL", "quantity": "10", "average_price": None, "price": "200", "multiplier": "1"}],
        0.1,
    )
    book.note_positions([position("AAPL", "10", "190"), position("MSFT", "1", "400")], (), 0.4)
    book.note_close(CloseResult("AAPL", CloseOutcome.ACCEPTED, order("close")), "close")
    book.note_positions([position("MSFT", "1", "380")], (), 1.0)
    cost = exit_cost("ALPHA", "USD", book, [fill("close", "-10", "190")], BEGAN)
    assert (cost.closes.slippage, cost.first_reference, cost.last_reference) == (Decimal(100), 0.1, 0.1)


def test_whether_the_venue_has_told_everything() -> None:
    case = CASES["a fill is missing"]
    assert unexplained(book_of(case), case.fills, BEGAN) == {"AAPL"}
    missing = fill("close", "-4", "199", at=2)
    assert unexplained(book_of(case), [*case.fills, missing], BEGAN) == frozenset()
    unread = CASES["what is left can't be read"]
    assert unexplained(book_of(unread), unread.fills, BEGAN) == frozenset(), "waiting would not help"


def test_a_close_without_an_answer_is_looked_for_by_its_own_id() -> None:
    book = OpeningBook()
    book.note_close(CloseResult("AAPL", CloseOutcome.UNKNOWN), "incident-AAPL-1")
    book.note_close(CloseResult("AAPL", CloseOutcome.REFUSED), "incident-AAPL-2")
    assert (book.sent, book.unnamed) == (set(), {"incident-AAPL-1": "AAPL"})


def test_of_many_lines_the_dearest_are_kept_and_the_sums_stay() -> None:
    symbols = [f"S{letter}" for letter in string.ascii_uppercase[:6]]
    book = OpeningBook()
    book.note_positions([position(symbol, "1", "100") for symbol in symbols], (), 0.1)
    book.note_positions([], (), 1.0)
    fills = [fill("late", "-1", str(100 - number), symbol) for number, symbol in enumerate(symbols)]
    cost = exit_cost("ALPHA", "USD", book, fills, BEGAN)
    short = without_fills(cost, 2)
    assert [line.symbol for line in short.lines] == ["SE", "SF"]
    assert (short.fills, short.lines_left_out, short.beside) == ((), 4, cost.beside)


decimals = st.decimals("0.01", "1000", places=2)


@dataclass(frozen=True)
class Exit:
    book: OpeningBook
    fills: Sequence[Fill]
    reference: dict[str, Decimal]
    entry: dict[str, Decimal]


@st.composite
def exits(draw: st.DrawFn) -> Exit:
    """Positions that are closed whole, each by a few fills at any prices."""
    book, fills = OpeningBook(), []
    reference: dict[str, Decimal] = {}
    entry: dict[str, Decimal] = {}
    for symbol in draw(st.lists(st.text(string.ascii_uppercase, min_size=1, max_size=4), min_size=1, unique=True)):
        sign = draw(st.sampled_from([1, -1]))
        parts = draw(st.lists(decimals, min_size=1, max_size=4))
        reference[symbol], entry[symbol] = draw(decimals), draw(decimals)
        book.note_positions(
            [position(symbol, str(sign * sum(parts)), str(reference[symbol]), str(entry[symbol]))], (), 0.1
        )
        for index, part in enumerate(parts):
            book.note_close(CloseResult(symbol, CloseOutcome.ACCEPTED, order(f"{symbol}{index}")), "")
            fills.append(fill(f"{symbol}{index}", str(-sign * part), str(draw(decimals)), symbol, at=index))
    book.note_positions([], (), 9.0)
    return Exit(book, draw(st.permutations(fills)), reference, entry)


def total(values: Sequence[Decimal | None]) -> Decimal:
    assert None not in values
    return sum((value for value in values if value is not None), Decimal(0))


@given(exits())
def test_symbols_add_up_to_the_total_and_every_side_costs_in_its_own_direction(exit_: Exit) -> None:
    cost = exit_cost("ALPHA", "USD", exit_.book, exit_.fills, BEGAN)
    assert cost.whole and cost.priced == cost.closed == len(exit_.reference)
    for name in ("slippage", "realised"):
        by_line, by_fill = ([getattr(each, name) for each in some] for some in (cost.lines, cost.fills))
        assert getattr(cost.closes, name) == total(by_line) == total(by_fill)
    for each in cost.fills:
        worse = each.price < exit_.reference[each.symbol] if each.side is Side.SELL else None
        worse = each.price > exit_.reference[each.symbol] if worse is None else worse
        assert each.slippage is not None
        assert (each.slippage > 0) is worse
    # What the book was worth over its entry, less the slippage, is what was realised.
    worth = total(
        [
            (exit_.reference[name] - exit_.entry[name]) * opening.quantity
            for name, opening in exit_.book.positions.items()
        ]
    )
    assert cost.closes.realised == worth - total([cost.closes.slippage])


@given(exits(), st.data())
def test_with_a_fill_missing_nothing_is_made_up(exit_: Exit, data: st.DataObject) -> None:
    missing = data.draw(st.sampled_from(list(exit_.fills)))
    rest = [each for each in exit_.fills if each is not missing]
    whole, partial = (exit_cost("ALPHA", "USD", exit_.book, some, BEGAN) for some in (exit_.fills, rest))
    assert not partial.whole and partial.priced == partial.closed - 1
    lines: dict[str, CostLine] = {line.symbol: line for line in partial.lines}
    assert missing.symbol not in lines or lines[missing.symbol].realised is None
    unharmed = {line for line in whole.lines if line.symbol != missing.symbol}
    assert unharmed <= {*partial.lines}


def test_an_account_of_which_nothing_was_read_has_no_number() -> None:
    cost = ExitCost("ALPHA", problem="not given by this venue")
    assert not cost.whole and not cost.nothing_filled
    assert (cost.closes.slippage, cost.closes.realised, cost.closes.fees, cost.closes.basis_points) == (None,) * 4


def test_people_are_told_what_an_exit_cost_in_a_line_and_nothing_where_that_was_not_read() -> None:
    known = ExitCost(
        "ALPHA",
        "USD",
        lines=(CostLine("AAPL", Side.SELL, Origin.CLOSE, 1, D(10), D(199), D(200), D(10), D(50), D(-90), None),),
        closed=1,
        priced=1,
        closes=CostSum(fills=1, slippage=D(10), basis_points=D(50), value=D(2000), realised=D(-90)),
    )
    unread = ExitCost("BETA", problem="GET /v2/account/activities: the venue answered 503")
    empty = ExitCost("GAMMA", "USD")
    accounts = tuple(AccountProgress(name, phase="flat", flat=True, flat_after=1.0) for name in ("ALPHA", "BETA"))
    report = KillReport(
        "i", "why", "ada", "global", "all", BEGAN, 0.1, 0.2, 1.0, accounts, (), costs=(known, unread, empty)
    )
    (note,) = kill_notifications(report, None)
    line = "ALPHA: slippage 10.00 USD (50.0 bp of 2,000.00 closed) · realised P&L -90.00 USD · fees not given"
    assert note.body.splitlines() == [
        "why (by ada)",
        "ALPHA: flat, 0 cancels, 0 closes",
        "BETA: flat, 0 cancels, 0 closes",
        line,
    ]
