"""Read a scenario from TOML: the book the paper exchange starts with and the trouble it makes.

Durations are seconds on the exchange's clock (which `time_scale` speeds up), latency is milliseconds, quantities are
shares, contracts or coins. Everything has a default; an empty file is a quiet market and an empty book. What an asset
is, its symbol says: `BTC/USD` (or `BTCUSD`) is a pair with a coin, `SPY261218C00600000` an option, `ESZ6` a future,
`EUR.USD` a pair of states' currencies.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from breaker.orders import OrderType, PositionSide, Side, TimeInForce
from sandbox.exchange.assets import Asset, asset_of, in_orders
from sandbox.exchange.crypto_assets import crypto_asset_of
from sandbox.exchange.distribution import AnyDistribution, Distribution
from sandbox.exchange.tws_settings import Tws

Symbol = Annotated[str, AfterValidator(in_orders)]
"""A pair in either of its spellings."""
Probability = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class Session(StrEnum):
    OPEN = "open"
    EXTENDED = "extended"
    CLOSED = "closed"


class Protocol(StrEnum):
    """Which venue the exchange is: whose rules hold, and what is listed."""

    ALPACA = "alpaca"
    BINANCE_SPOT = "binance-spot"
    BINANCE_FUTURES = "binance-futures"


class ScenarioError(ValueError):
    """A scenario that can't be used; the message is one line and names the key."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


_ZERO = Distribution(fixed=0)


class Account(_Part):
    id: UUID = UUID("4f3c9a1e-1d53-4c8a-9b0e-2f6d8a7b5c11")
    key: str = "key"
    secret: str = "secret"  # noqa: S105 - of a paper account
    cash: Decimal = Decimal(10_000_000)
    equity: Decimal | None = None
    """When given, cash is what remains of it after the positions of the book."""
    multiplier: int = Field(default=4, ge=1, le=4)
    trade_suspended_by_user: bool = False
    """New orders are refused until the account's configuration says otherwise."""
    trading_blocked: bool = False
    account_blocked: bool = False
    key_may_trade: bool = True
    """Otherwise the key may only read."""
    hedge_mode: bool = False
    """Futures: a symbol has a long and a short position instead of one that nets."""


class AssetRules(_Part):
    """What an asset's orders must obey, where it is not what its kind has."""

    min_order_size: Decimal | None = Field(default=None, ge=0)
    min_trade_increment: Decimal | None = Field(default=None, gt=0)
    price_increment: Decimal | None = Field(default=None, gt=0)
    price_bands: tuple[tuple[Decimal, Decimal], ...] | None = None
    """Each band's lowest price, of the first one 0, and the price step from there on."""
    min_cost: Decimal | None = Field(default=None, ge=0)
    max_order_size: Decimal | None = Field(default=None, gt=0)
    max_market_order_size: Decimal | None = Field(default=None, gt=0)
    last_trade: date | None = None
    """The day after which a future or an option is not traded any more."""


class Market(_Part):
    session: Session = Session.OPEN
    opens_after: Seconds | None = None
    closes_after: Seconds | None = None
    """Day orders that are open then expire."""
    next_open: datetime | None = None
    """What the clock says when nothing else decides it."""


class GeneratedBook(_Part):
    """Resting orders are far from the market, so they fill only by a race or a price move."""

    orders: Count = 0
    positions: Count = 0
    short: Probability = 0.3
    """Share of the positions that are short."""
    fractional: Probability = 0.2
    """Share of the long positions with a fraction of a share."""
    reducing: Probability = 0.4
    """Share of the orders that would reduce a position."""
    brackets: Count = 0
    """Long positions with a take-profit and a stop-loss leg; these orders are not counted in `orders`."""
    crypto: Count = 0
    """Positions in pairs, each with a resting order for a part of it; these are not counted in `positions`."""
    options: Count = 0
    """Long options by themselves, and below them what else is made of options: two positions each."""
    spreads: Count = 0
    covered_calls: Count = 0
    futures: Count = 0
    """Positions in futures, as Interactive Brokers has them, each with a resting order; not counted in `positions`."""
    forex: Count = 0
    """The same in pairs of currencies, some of them odd lots."""
    both_legs: Count = 0
    """Hedge mode: in that many of the positions' symbols a position of the other side, too."""
    algo: Count = 0
    """Futures: conditional orders for positions, kept apart from the others; these are not counted in `orders`."""
    reduce_only: Count = 0
    """Futures: positions all of which a resting reduce-only order holds; these are not counted in `orders`."""
    dust: Count = 0
    """Positions in pairs, below the venue's minimum."""
    notional: Count = 0
    """Resting orders for an amount of money."""
    multi_leg: Count = 0
    """Resting orders with two legs."""
    unreadable_orders: Count = 0
    """Of the resting orders above, how many answers garble."""
    unreadable_positions: Count = 0
    pending_replace: Count = 0
    pending_replace_for: Seconds | None = None
    """Absent: for ever."""
    pending_cancel: Count = 0
    pending_cancel_for: Seconds | None = None
    strategies: Count = 0
    """How many of the orders a strategy places again when they are cancelled."""
    strategy_times: Count = 3
    strategy_for: Seconds | None = None
    strategy_delay: Seconds = 0.2
    orders_per_timestamp: int = Field(default=1, ge=1)
    """How many orders share a `submitted_at`: what paging by time must survive."""


class PositionEntry(_Part):
    symbol: Symbol
    qty: Decimal
    price: Decimal | None = Field(default=None, gt=0)
    withheld: Decimal = Field(default=Decimal(0), ge=0)
    """How much of it the venue lets nobody close, without an order that holds it."""
    unreadable: bool = False
    """Answers give an empty string for what is available of it."""


class ResubmissionEntry(_Part):
    times: Count = 1
    seconds: Seconds | None = None
    delay: Seconds = 0.2


class LegEntry(_Part):
    symbol: Symbol
    side: Side
    ratio: Decimal = Field(default=Decimal(1), gt=0)


class OrderEntry(_Part):
    """An order of the book; it is not checked against the rules for new orders."""

    symbol: Symbol = ""
    side: Side | None = None
    qty: Decimal | None = Field(default=None, gt=0)
    notional: Decimal | None = Field(default=None, gt=0)
    type: OrderType = OrderType.LIMIT
    time_in_force: TimeInForce = TimeInForce.GTC
    limit_price: Decimal | None = None
    """Of an order with legs it may be negative: what it brings in."""
    stop_price: Decimal | None = Field(default=None, gt=0)
    client_order_id: str | None = None
    status: Literal["new", "pending_cancel", "pending_replace", "calculated"] = "new"
    """`calculated` has been executed, and is listed with the open ones until its settlement is worked out."""
    status_for: Seconds | None = None
    """How long it stays so; absent: for ever."""
    again: ResubmissionEntry | None = None
    legs: tuple[LegEntry, ...] = Field(default=(), max_length=4)
    """Of an order with several, which has no symbol and no side of its own."""
    side_word: str = ""
    """What answers call its side, where that is another word than `side`, such as `sell_short`."""
    unreadable: bool = False
    """Answers give an empty string for its limit price."""
    position_side: PositionSide | None = None
    """In hedge mode; absent: the position that its side opens."""
    reduce_only: bool = False
    close_position: bool = False
    """Of a conditional order: it closes all of the position, whatever that is when its price is reached."""
    takes_profit: bool = False
    """Its stop price is reached from the other side."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if bool(self.symbol) == bool(self.legs) or (self.side is None) != bool(self.legs):
            raise ValueError("give symbol and side, or legs")
        if (self.qty is None) == (self.notional is None):
            raise ValueError("give either qty or notional")
        if self.limit_price is not None and self.limit_price <= 0 and not self.legs:
            raise ValueError("limit_price must be above 0")
        return self


class PriceMove(_Part):
    at: Seconds
    symbol: Symbol
    price: Decimal = Field(gt=0)


class TransferEntry(_Part):
    """Money moved in or out (negative) of the account."""

    at: Seconds
    amount: Decimal
    kind: Literal["CSD", "CSW", "JNLC", "DIV"] | None = None
    """CSD or CSW by its sign unless given."""

    @property
    def activity(self) -> str:
        return self.kind or ("CSD" if self.amount > 0 else "CSW")


class QuoteSilence(_Part):
    """The symbol's quotes stand still, though it trades."""

    symbol: Symbol
    at: Seconds = 0
    until: Seconds | None = None


class Fills(_Part):
    delay: AnyDistribution = _ZERO
    partial_probability: Probability = 0.0
    partial_fraction: float = Field(default=0.5, gt=0, lt=1)
    pause: Seconds = 0.05
    """Between two partial fills of an order."""
    slippage_bp: AnyDistribution = _ZERO
    """How much worse than the market's price a market order fills, in basis points; in whole price steps, rounded."""
    stall_probability: Probability = 0.0
    """After a partial fill nothing more comes until the order is cancelled."""


class Cancels(_Part):
    delay: AnyDistribution = _ZERO
    race_probability: Probability = 0.0
    """The order fills between the cancel request and its effect."""
    race_fraction: float = Field(default=1.0, gt=0, le=1)
    late_fill_probability: Probability = 0.0
    """An order that was cancelled has filled all the same, which is told after its end; as much as in a race."""
    late_fill_after: Seconds = 0.3
    bulk_leaves: Count = 0
    """A bulk request fails for that many orders, the oldest; one by one they can be cancelled."""


class Brackets(_Part):
    """A fast market, in which both legs of a pair fill and the position changes sign."""

    both_fill_probability: Probability = 0.0
    """When a leg's cancel is asked for."""
    both_fill_at: Seconds | None = None


class Halt(_Part):
    symbol: Symbol | None = None
    count: int | None = Field(default=None, ge=1)
    """That many symbols of the book's positions, picked by the seed."""
    mode: Literal["reject", "hold"] = "reject"
    """`reject`: new orders are refused; `hold`: accepted, never filled."""
    after: Seconds = 0
    until: Seconds | None = None
    status: Literal[403, 422] = 422

    @model_validator(mode="after")
    def _which(self) -> Self:
        if (self.symbol is None) == (self.count is None):
            raise ValueError("give either symbol or count")
        return self


class ExitRefusal(_Part):
    """A rule that hits orders which would reduce a position."""

    reason: Literal["day_trade", "buying_power"] = "day_trade"
    symbols: tuple[Symbol, ...] = ()
    """Empty: all."""
    probability: Probability = 1.0
    first: int | None = Field(default=None, ge=1)
    """Only that many times."""
    after: Seconds = 0
    until: Seconds | None = None
    later: bool = False
    """Accepted, then `rejected` instead of refused at once."""


class Trouble(_Part):
    kind: Literal["401", "403", "418", "429", "500", "502", "503", "504", "timeout", "drop"]
    applied: bool = False
    """The request takes effect all the same; only its answer is lost or wrong."""
    routes: tuple[str, ...] = ("*",)
    """Patterns on e.g. `DELETE /v2/orders/{id}`."""
    probability: Probability = 1.0
    first: int | None = Field(default=None, ge=1)
    skip: Count = 0
    """So many matching requests pass unharmed before."""
    after: Seconds = 0
    until: Seconds | None = None

    @model_validator(mode="after")
    def _what_is_turned_away_is_not_applied(self) -> Self:
        if self.kind in ("418", "429") and self.applied:
            raise ValueError("a rate-limited request is never applied")
        if self.kind in ("401", "403") and self.applied:
            raise ValueError("a request that is turned away is never applied")
        return self


class LateFill(_Part):
    """A fill that arrives when the book has been flat for a while."""

    after_flat: Seconds
    symbol: Symbol | None = None
    """Absent: one of the book's symbols."""
    side: Side = Side.BUY
    qty: Decimal = Field(default=Decimal(10), gt=0)
    times: int = Field(default=1, ge=1)


class Scenario(_Part):
    seed: int = 1
    time_scale: float = Field(default=1.0, gt=0)
    """Exchange seconds per real second; it applies to latency and the rate limit too."""
    enforce_available: bool = True
    """False: a venue that lets orders cross zero, and sales leave a short option uncovered."""
    fractions_outside_session: bool = True
    """Whether limit orders of the extended hours may be for a fraction of a share."""
    sales_have_minimum_cost: bool = False
    """A pair's minimum cost holds for sales too. Measured at Alpaca, it holds for purchases only."""
    legs_listed_apart: bool = False
    """Where a list is not asked to nest, an order with several legs comes without them, and they beside it."""
    protocol: Protocol = Protocol.ALPACA
    rate_limit: int | None = Field(default=None, ge=1)
    """Requests a minute, or their weights; absent: the venue's own limit."""
    order_limit: int | None = Field(default=None, ge=1)
    """Binance: new orders in ten seconds; absent: the venue's own limit."""
    ban_after: int | None = Field(default=None, ge=1)
    """Binance: so many requests over the limit are answered 429; the next one bans the address (418)."""
    ban_for: Seconds = 120
    clock_ahead_ms: int = 0
    """How far the venue's clock is ahead of the host's; negative: behind it."""
    latency_ms: AnyDistribution = _ZERO
    account: Account = Account()
    market: Market = Market()
    book: GeneratedBook = GeneratedBook()
    prices: dict[Symbol, Annotated[Decimal, Field(gt=0)]] = Field(default_factory=dict)
    assets: dict[Symbol, AssetRules] = Field(default_factory=dict)
    positions: tuple[PositionEntry, ...] = ()
    orders: tuple[OrderEntry, ...] = ()
    price_moves: tuple[PriceMove, ...] = ()
    transfers: tuple[TransferEntry, ...] = ()
    quote_silences: tuple[QuoteSilence, ...] = ()
    fills: Fills = Fills()
    cancels: Cancels = Cancels()
    brackets: Brackets = Brackets()
    halts: tuple[Halt, ...] = ()
    exit_refusals: tuple[ExitRefusal, ...] = ()
    trouble: tuple[Trouble, ...] = ()
    late_fill: LateFill | None = None
    tws: Tws = Tws()

    def asset(self, symbol: str) -> Asset:
        """The asset of this symbol, in the spelling of orders."""
        rules = self.assets.get(symbol, AssetRules())
        is_contract = self.protocol is Protocol.BINANCE_FUTURES
        usual = (
            asset_of(symbol) if self.protocol is Protocol.ALPACA else crypto_asset_of(symbol, is_contract=is_contract)
        )
        said: dict[str, Any] = {
            "quantity_increment": rules.min_trade_increment,
            "price_increment": rules.price_increment,
            "price_bands": rules.price_bands,
            "minimum_quantity": rules.min_order_size,
            "minimum_cost": rules.min_cost,
            "maximum_quantity": rules.max_order_size,
            "maximum_market_quantity": rules.max_market_order_size,
            "last_trade": rules.last_trade,
        }
        return replace(usual, **{name: value for name, value in said.items() if value is not None})

    @property
    def requests_a_minute(self) -> int:
        """Their weights, where the venue weighs them (as `exchangeInfo` has the limits)."""
        usual = {Protocol.ALPACA: 200, Protocol.BINANCE_SPOT: 6_000, Protocol.BINANCE_FUTURES: 2_400}
        return self.rate_limit or usual[self.protocol]

    @property
    def orders_in_ten_seconds(self) -> int:
        """New ones, where the venue counts them apart (as `exchangeInfo` has the limits)."""
        return self.order_limit or (100 if self.protocol is Protocol.BINANCE_SPOT else 300)


def parse(text: str) -> Scenario:
    """The scenario in this TOML. Raises `ScenarioError` with one line that names the key."""
    try:
        return Scenario.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"scenario is not TOML: {error}") from error
    except ValidationError as error:
        raise ScenarioError(_first_problem(error)) from error


def load(path: Path) -> Scenario:
    """The scenario in this file. Raises `ScenarioError`, also for a file that can't be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"scenario {path} cannot be read: {error}") from error
    try:
        return parse(text)
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from error


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "scenario"
    message = first["msg"].removeprefix("Value error, ")
    more = error.error_count() - 1
    return f"scenario key {key}: {message}" + (f" (and {more} more)" if more else "")
