"""Build the book an exchange starts with, and plan what the scenario lets happen to it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from decimal import ROUND_DOWN, Decimal
from functools import partial
from random import Random
from typing import Final

from breaker.orders import ZERO, OrderType, Side, TimeInForce
from sandbox.exchange.acceptance import Acceptance, joint_legs
from sandbox.exchange.assets import ALWAYS_OPEN
from sandbox.exchange.assortment import Assortment
from sandbox.exchange.crypto_book import CryptoBook
from sandbox.exchange.exchange import Exchange
from sandbox.exchange.orders import (
    QUANTITY_STEP,
    LegRequest,
    OrderClass,
    Origin,
    PaperOrder,
    PaperPosition,
    Resubmission,
    Status,
)
from sandbox.exchange.scenario import OrderEntry, Protocol, Scenario, Session
from sandbox.exchange.venue_record import VenueRecord

_TICKERS: Final = tuple(
    ticker
    for line in (
        "AAPL MSFT NVDA AMZN GOOGL META TSLA AVGO JPM V UNH XOM MA PG JNJ HD COST ABBV MRK BAC CRM KO PEP AMD NFLX",
        "ADBE TMO WMT DIS CSCO ORCL INTC QCOM TXN IBM GE CAT BA GS MS C WFC T VZ PFE NKE SBUX MCD UPS FDX SPY QQQ",
        "IWM DIA XLF XLE XLK GLD SLV TLT",
    )
    for ticker in line.split()
)
_CENT: Final = Decimal("0.01")


def open_exchange(scenario: Scenario, record: VenueRecord, rules: type[Acceptance] = Acceptance) -> Exchange:
    """An exchange with this scenario's book, at second zero; `rules` are the venue's for new orders."""
    random = Random(f"{scenario.seed}:book")  # noqa: S311 - a market, not a secret
    exchange = Exchange(scenario, record, Random(f"{scenario.seed}:matching"), rules)  # noqa: S311
    _Builder(scenario, exchange, random).build()
    if scenario.account.equity is not None:
        exchange.book.cash += scenario.account.equity - exchange.book.equity
    _plan(scenario, exchange, random)
    record.orders_created.clear()
    exchange.advance(0)
    return exchange


class _Builder:
    def __init__(self, scenario: Scenario, exchange: Exchange, random: Random) -> None:
        self._scenario = scenario
        self._exchange = exchange
        self._book = exchange.book
        self._random = random
        self._placed = 0
        self._assortment = Assortment(scenario, exchange.book, Random(f"{scenario.seed}:assortment"))  # noqa: S311
        self._crypto = CryptoBook(scenario, exchange.book, random)
        listed = len(scenario.orders) + scenario.book.orders + 2 * scenario.book.brackets
        self._total = listed + self._assortment.most_orders + self._crypto.most_orders

    def build(self) -> None:
        if self._scenario.protocol is Protocol.ALPACA:
            for ticker in _TICKERS:
                self._book.prices.setdefault(ticker, _price(self._random))
            self._build_what_is_given()
            self._build_equities()
        else:
            self._crypto.list_assets()
            self._build_what_is_given()
            for held in self._crypto.positions():
                self._exchange.add_position(held)
            for entry in self._crypto.orders():
                self._add(entry)
        self._garble()

    def _build_what_is_given(self) -> None:
        for position in self._scenario.positions:
            price = position.price or self._book.prices.get(position.symbol, self._usual_price(position.symbol))
            self._book.prices.setdefault(position.symbol, price)
            side = self._book.held_as(position.qty)
            self._exchange.add_position(
                PaperPosition(position.symbol, position.qty, price, position.withheld, position.unreadable, side)
            )
        for entry in self._scenario.orders:
            for leg in entry.legs:
                self._book.prices.setdefault(leg.symbol, self._usual_price(leg.symbol))
            if entry.symbol:
                price = entry.limit_price or entry.stop_price or self._usual_price(entry.symbol)
                self._book.prices.setdefault(entry.symbol, price)
            self._add(entry)

    def _build_equities(self) -> None:
        generated = self._generated_positions()
        for symbol in generated[: self._scenario.book.brackets]:
            self._add_bracket(symbol)
        self._add_generated_orders(generated)
        for held in self._assortment.positions():
            self._exchange.add_position(held)
        for entry in self._assortment.orders():
            self._add(entry)

    def _usual_price(self, symbol: str) -> Decimal:
        return self._book.asset(symbol).usual_price

    def _garble(self) -> None:
        """Make as many of the book's orders and positions unreadable as the scenario says."""
        orders = [order for order in self._book.open_orders.values() if order.limit_price is not None]
        for order in self._random.sample(orders, min(self._scenario.book.unreadable_orders, len(orders))):
            order.unreadable = True
        positions = list(self._book.positions.values())
        count = self._scenario.book.unreadable_positions
        for position in self._random.sample(positions, min(count, len(positions))):
            position.unreadable = True

    def _generated_positions(self) -> list[str]:
        book = self._scenario.book
        symbols = list(itertools.islice(self._unused_symbols(), max(book.positions, book.brackets)))
        for index, symbol in enumerate(symbols):
            qty = Decimal(self._random.randint(2, 200))
            # Pairs of legs want whole shares of a long position, so the first ones are that.
            if index >= book.brackets:
                if self._random.random() < book.short:
                    qty = -qty
                elif self._random.random() < book.fractional:
                    qty += Decimal(self._random.randint(1, 999)) / 1000
            self._exchange.add_position(PaperPosition(symbol, qty, self._book.prices[symbol]))
        return symbols

    def _unused_symbols(self) -> Iterator[str]:
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        more = ("Q" + "".join(tail) for tail in itertools.product(letters, repeat=3))
        for symbol in itertools.chain(_TICKERS, more):
            if symbol not in self._book.positions:
                self._book.prices.setdefault(symbol, _price(self._random))
                yield symbol

    def _add_generated_orders(self, held: list[str]) -> None:
        book = self._scenario.book
        others = list(itertools.islice(self._unused_symbols(), max(10, book.orders // 10)))
        # One side for each symbol without a position: two that race into it must not turn it over.
        sides = {symbol: self._random.choice(list(Side)) for symbol in others}
        pending = ["pending_replace"] * book.pending_replace + ["pending_cancel"] * book.pending_cancel
        lasting = {"pending_replace": book.pending_replace_for, "pending_cancel": book.pending_cancel_for}
        orders = []
        for index in range(book.orders):
            symbol, side, qty = self._generated_terms(held, others, sides)
            order = self._add(
                OrderEntry(
                    symbol=symbol,
                    side=side,
                    qty=qty,
                    limit_price=self._far_limit(symbol, side),
                    status=pending[index] if index < len(pending) else "new",
                    status_for=lasting.get(pending[index]) if index < len(pending) else None,
                )
            )
            orders.append(order)
        for order in orders[len(pending) : len(pending) + book.strategies]:
            order.resubmission = Resubmission(book.strategy_times, _until(book.strategy_for), book.strategy_delay)

    def _generated_terms(self, held: list[str], others: list[str], sides: dict[str, Side]) -> tuple[str, Side, Decimal]:
        if held and self._random.random() < self._scenario.book.reducing:
            position = self._book.positions[self._random.choice(held)]
            free = self._book.available(position).to_integral_value(ROUND_DOWN)
            if free >= 1:
                return position.symbol, position.closing_side, Decimal(self._random.randint(1, int(free)))
        symbol = self._random.choice(held + others if held else others)
        side = sides.get(symbol) or self._book.positions[symbol].closing_side.opposite
        return symbol, side, Decimal(self._random.randint(1, 100))

    def _far_limit(self, symbol: str, side: Side) -> Decimal:
        away = Decimal(self._random.randint(10, 30)) / 100
        return (self._book.prices[symbol] * (1 - side.sign * away)).quantize(_CENT)

    def _add(self, entry: OrderEntry) -> PaperOrder:
        at = self._next_time()
        qty = entry.qty
        if qty is None:
            price = entry.limit_price or self._book.prices[entry.symbol]
            qty = ((entry.notional or ZERO) / price).quantize(QUANTITY_STEP, ROUND_DOWN)
        side = entry.side or Side.BUY
        order = PaperOrder(
            id=self._exchange.new_id(),
            client_order_id=entry.client_order_id or self._exchange.new_id(),
            symbol=entry.symbol,
            side=side,
            type=entry.type,
            time_in_force=entry.time_in_force,
            qty=qty,
            status=Status(entry.status),
            submitted_at=at,
            updated_at=at,
            origin=Origin.BOOK,
            notional=entry.notional,
            limit_price=entry.limit_price,
            stop_price=entry.stop_price,
            order_class=OrderClass.MLEG if entry.legs else OrderClass.SIMPLE,
            side_word=entry.side_word,
            unreadable=entry.unreadable,
            position_side=entry.position_side or self._book.opened_by(side),
            reduce_only=entry.reduce_only,
            close_position=entry.close_position,
            takes_profit=entry.takes_profit,
            conditional=self._scenario.protocol is Protocol.BINANCE_FUTURES and entry.stop_price is not None,
        )
        legs = [LegRequest(leg.symbol, leg.side, leg.ratio) for leg in entry.legs]
        order.legs = joint_legs(order, legs, self._exchange.new_id)
        if order.status is Status.CALCULATED:
            order.filled_qty, order.filled_at = qty, at
        always_open = bool(entry.symbol) and self._book.asset(entry.symbol).asset_class in ALWAYS_OPEN
        if entry.status == "new" and self._exchange.matching.session is not Session.OPEN and not always_open:
            order.become(Status.ACCEPTED, at)
        if entry.again:
            order.resubmission = Resubmission(entry.again.times, _until(entry.again.seconds), entry.again.delay)
        if entry.status_for is not None and entry.status != "new":
            then = Status.CANCELED if entry.status == "pending_cancel" else Status.NEW
            self._exchange.after(entry.status_for, partial(self._exchange.release, order, then))
        return self._exchange.add_order(order)

    def _add_bracket(self, symbol: str) -> None:
        """A filled entry whose take-profit works and whose stop-loss is held by it."""
        price = self._book.prices[symbol]
        qty = self._book.positions[symbol].qty
        at = self._next_time()

        def order(side: Side, kind: OrderType, status: Status) -> PaperOrder:
            return PaperOrder(
                id=self._exchange.new_id(),
                client_order_id=self._exchange.new_id(),
                symbol=symbol,
                side=side,
                type=kind,
                time_in_force=TimeInForce.GTC,
                qty=qty,
                status=status,
                submitted_at=at,
                updated_at=at,
                origin=Origin.BOOK,
                order_class=OrderClass.BRACKET,
            )

        entry = order(Side.BUY, OrderType.MARKET, Status.FILLED)
        entry.filled_qty, entry.filled_value, entry.filled_at = qty, qty * price, at
        profit = order(Side.SELL, OrderType.LIMIT, Status.NEW)
        profit.limit_price = (price * Decimal("1.2")).quantize(_CENT)
        loss = order(Side.SELL, OrderType.STOP, Status.HELD)
        loss.stop_price = (price * Decimal("0.8")).quantize(_CENT)
        profit.sibling, loss.sibling = loss, profit
        profit.parent = loss.parent = entry
        entry.legs = [profit, loss]
        self._book.orders[entry.id] = entry
        for leg in entry.legs:
            self._exchange.add_order(leg)

    def _next_time(self) -> float:
        """The book's orders came in before the start, one or a few at a time."""
        step = self._placed // self._scenario.book.orders_per_timestamp
        self._placed += 1
        return float(step - self._total - 1)


def _plan(scenario: Scenario, exchange: Exchange, random: Random) -> None:
    """Everything the scenario lets happen at a given moment."""
    market = scenario.market
    if market.opens_after is not None:
        exchange.after(market.opens_after, partial(exchange.matching.change_session, Session.OPEN))
    if market.closes_after is not None:
        exchange.after(market.closes_after, partial(exchange.matching.change_session, Session.CLOSED))
    for move in scenario.price_moves:
        exchange.book.prices.setdefault(move.symbol, move.price)
        exchange.after(move.at, partial(exchange.matching.set_price, move.symbol, move.price))
    for transfer in scenario.transfers:
        exchange.after(transfer.at, partial(exchange.transfer, transfer.amount, transfer.activity))
    for silence in scenario.quote_silences:
        exchange.after(silence.at, partial(exchange.silence, silence.symbol))
        if silence.until is not None:
            exchange.after(silence.until, partial(exchange.quote_again, silence.symbol))
    if scenario.brackets.both_fill_at is not None:
        exchange.after(scenario.brackets.both_fill_at, exchange.matching.fast_market)
    for halt in scenario.halts:
        symbols = [halt.symbol] if halt.symbol else _pick(exchange, halt.count or 0, random)
        for symbol in symbols:
            exchange.after(
                halt.after, partial(exchange.matching.halt, symbol, rejects=halt.mode == "reject", status=halt.status)
            )
            if halt.until is not None:
                exchange.after(halt.until, partial(exchange.matching.resume, symbol))


def _pick(exchange: Exchange, count: int, random: Random) -> list[str]:
    held = sorted(exchange.book.positions)
    return random.sample(held, min(count, len(held)))


def _until(seconds: float | None) -> float:
    return float("inf") if seconds is None else seconds


def _price(random: Random) -> Decimal:
    return Decimal(random.randint(1_000, 40_000)) / 100
