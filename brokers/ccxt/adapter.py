"""Close one account at an exchange that ccxt speaks to: derivatives, one-way or hedged, or a spot or margin wallet.

What shapes this adapter: exchanges want the symbol, and the kind, of an order beside its id, so an order is named here
by all three; several lists make up the open orders; a failed item may hide in an answer that is none; what ccxt raises
is told by its class as refused or as unknown; an order whose answer was lost is looked up and never sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from breaker.instruments import Instrument
from breaker.orders import Account, Fill, MarketClock, Order, OrderType, Position, PositionSide, Side, Unreadable
from brokers.ccxt import money, safety_net
from brokers.ccxt.cancelling import Cancels
from brokers.ccxt.connection import Connection, last_answer
from brokers.ccxt.derivatives import read_positions
from brokers.ccxt.errors import MayHaveHappened, VenueRefused
from brokers.ccxt.kraken import margin_positions
from brokers.ccxt.lists import Lists
from brokers.ccxt.open_orders import OpenOrders
from brokers.ccxt.reading import (
    SENSELESS,
    at_path,
    check_none_told,
    failure_in,
    moment,
    read_fill,
    read_instrument,
    read_order,
    unreadable,
)
from brokers.ccxt.refusals import refused_close
from brokers.ccxt.spot import LOAN, is_kept, positions_of, read_balances, selling_pair
from brokers.ccxt.venue_table import venue_of
from brokers.protocol import (
    Broker,
    BrokerError,
    BrokerUnavailable,
    CancelResult,
    Capabilities,
    CloseOrder,
    CloseOutcome,
    CloseResult,
    Listed,
    Refusal,
    SafetyNet,
    Transfer,
)

KEEP = ("USDT", "USDC", "USD")
"""What a spot wallet keeps unless it is told."""
FILLS_PAGE = 500
_TELLS_RIGHTS = frozenset({"binance", "binanceusdm", "binancecoinm"})
MOST_SYMBOLS = 8
"""Symbols at which an order is looked for that another process may have sent."""


class CcxtBroker(Broker):
    """One account at one exchange, in one of its markets. Keep one instance per account and process.

    Args:
        name: the account's name in the configuration.
        exchange: ccxt's name of the exchange, such as `binanceusdm`.
        market: which of its wallets: `swap`, `future`, `spot` or `margin` (cross margin).
        connection: how it is asked.
        keep: currencies that a spot or margin wallet keeps; the first is what it is valued in.
        requests_per_minute: as the account's settings have it; None: as the exchange has it.
        leave_out: product lines of the exchange that the account does not cover.
    """

    def __init__(
        self,
        name: str,
        exchange: str,
        market: str,
        connection: Connection,
        *,
        keep: Sequence[str] = KEEP,
        requests_per_minute: int | None = None,
        leave_out: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._exchange = exchange
        self._market = market
        self._keep = tuple(keep)
        self._connection = connection
        self._venue = venue = venue_of(exchange, market).without(leave_out)
        self._spot = market in ("spot", "margin")
        self._lists = Lists(connection, venue, market)
        self._open_orders = OpenOrders(connection, venue, self._lists)
        self._cancels = Cancels(connection, venue, self._open_orders)
        self._symbols: dict[str, str] = {}
        """The symbol of each client order id that was sent or seen: most exchanges find none without."""
        self._net = SafetyNet(None, detail="not armed by this process")
        self._read = False
        self._hedged: frozenset[str] = frozenset()
        """Symbols whose positions were last listed as two, a long and a short one."""
        self._seen: set[str] = set()
        """Symbols that had an order or a position."""
        self.capabilities = Capabilities(
            bulk_cancel=bool(venue.cancels_all),
            bulk_close=False,
            # Of a spot wallet nothing can be sold that is not there, so that its orders need no mark.
            reduce_only=market != "margin",
            fractional=True,
            requests_per_minute=requests_per_minute or venue.requests_per_minute,
            page_size=venue.page_size,
            fills=True,
            transfers=bool(venue.transfers),
            quotes=True,
            market_orders=venue.market_orders,
            batch_cancel=venue.batch,
            client_order_ids=venue.client_order_ids,
            looks_up_orders=bool(venue.finds_by),
            conditional_apart=any(view.conditional for view in venue.orders),
            extended_hours=False,
            safety_net=venue.timer is not None,
            weights=venue.weights,
            not_covered="; ".join(filter(None, (", ".join(leave_out), venue.not_covered))),
        )

    def __repr__(self) -> str:
        return f"CcxtBroker({self.name!r}, {self._exchange!r}, {self._market!r})"

    async def aclose(self) -> None:
        await self._lists.aclose()
        await self._connection.aclose()

    async def account(self) -> Account:
        """In the account's currency: what the exchange says it is worth, else its balances at last prices."""
        return await money.account(self._connection, self._venue, self._market, self._keep)

    async def clock(self) -> MarketClock:
        """The exchange's time; what it trades is traded round the clock."""
        exchange = await self._connection.ready()
        if exchange.has.get("fetchTime"):
            now = moment(await self._connection.read("time", lambda asked: asked.fetch_time()))
        else:
            now = moment(exchange.milliseconds())
        return MarketClock(now, is_open=True)

    async def open_orders(self) -> Listed[Order]:
        """Every open order, conditional ones too, from every list that the exchange has of them."""
        listed = await self._open_orders.read()
        self._note(listed.items)
        await self._connection.lists_all({order.symbol for order in listed.items})  # one can be cancelled once it does
        return Listed(tuple(self._of_its_leg(order) for order in listed.items), listed.unreadable)

    def _of_its_leg(self, order: Order) -> Order:
        """In hedge mode an order opens its own side's position or reduces the other; some say it only so (Gate)."""
        if order.position_side is not None or order.symbol not in self._hedged:
            return order
        is_long = (order.side is Side.SELL) == order.reduce_only
        return replace(order, position_side=PositionSide.LONG if is_long else PositionSide.SHORT)

    async def positions(self) -> Listed[Position]:
        """Every position, in the exchange's contracts; of a wallet, every balance that has to go."""
        listed = await (self._of_wallet() if self._spot else read_positions(self._connection, self._venue, self._lists))
        self._seen |= {position.symbol for position in listed.items}
        self._hedged = frozenset(each.symbol for each in listed.items if each.position_side is not None)
        self._read = True
        return listed

    async def _of_wallet(self) -> Listed[Position]:
        held = margin_positions(self._connection) if self._exchange == "kraken" else _nothing()
        body, on_margin = await asyncio.gather(
            self._connection.read("balance", self._balances),
            held,
        )
        balances, unread = read_balances(body)
        exchange = await self._connection.ready()
        prices = await money.last_prices(self._connection, balances, self._keep)
        listed = positions_of(balances, self._keep, exchange.markets, self._known_instrument(exchange), prices)
        named = (
            replace(item, symbol=selling_pair(item.symbol, self._keep, exchange.markets) or item.symbol)
            for item in unread
        )
        return Listed(listed.items, (*named, *listed.unreadable, *on_margin))

    async def _balances(self, exchange: Any) -> Mapping[str, Any]:
        last_answer.set(None)
        body: Mapping[str, Any] = await exchange.fetch_balance(self._wallet())
        answer = last_answer.get()
        if not body.get("total") and self._venue.told_under and answer is not None:
            check_none_told(answer, self._venue.told_under)
        return body

    def _wallet(self) -> dict[str, Any]:
        return {"type": "margin", "marginMode": "cross"} if self._market == "margin" else {}

    def _known_instrument(self, exchange: Any) -> Callable[[str], Instrument]:
        in_coins = self._venue.inverse_in_coins
        return lambda symbol: read_instrument(exchange.markets[symbol], exchange.precisionMode, in_coins=in_coins)

    async def instruments(self, symbols: Collection[str]) -> Mapping[str, Instrument]:
        """What the exchange says of these symbols."""
        exchange = await self._connection.ready()
        known = self._known_instrument(exchange)
        return {symbol: known(symbol) for symbol in symbols if symbol in exchange.markets}

    async def order(self, client_order_id: str, symbol: str | None = None) -> Order | None:
        """By its client order id, at the symbol that it was sent for or is open in. Of a repayment there is no order.

        Where that isn't known it is looked for at some of the symbols in the book: most exchanges find none without a
        symbol, and to ask at each of a large book, for each of its closes, would take what the closes need.
        """
        known = symbol or self._symbols.get(client_order_id)
        if known is not None and known.endswith(LOAN):
            return None
        symbols = [known] if known else (await self._symbols_in_book())[:MOST_SYMBOLS]
        found = await asyncio.gather(*(self._open_orders.find(client_order_id, symbol) for symbol in symbols))
        return next((order for order in found if order is not None), None)

    async def _symbols_in_book(self) -> list[str]:
        """Those that had an order or a position, when the book was read last; it is read where it wasn't."""
        if not self._read:
            await asyncio.gather(self.open_orders(), self.positions())
        return sorted(symbol for symbol in self._seen if not symbol.endswith(LOAN))

    async def fills(self, since: datetime) -> Listed[Fill]:
        """Every execution since then; where the exchange wants a symbol, of those that were seen here."""
        symbols: Sequence[str | None] = await self._symbols_in_book() if self._venue.fills_by_symbol else (None,)
        bodies = await asyncio.gather(*(self._fills_of(symbol, since) for symbol in symbols))
        found: dict[str, Fill] = {}
        unread: list[Unreadable] = []
        for body in (item for answer in bodies for item in answer):
            try:
                fill = read_fill(body)
                found[fill.id] = fill
            except SENSELESS as error:
                unread.append(unreadable("fill", body, error))
        return Listed(tuple(sorted(found.values(), key=lambda fill: fill.at)), tuple(unread))

    async def _fills_of(self, symbol: str | None, since: datetime) -> list[Mapping[str, Any]]:
        """Page after page, each from the last one's newest on; what comes twice is dropped by who asks."""
        at, found, size = int(since.timestamp() * 1000), list[Mapping[str, Any]](), await self._most_fills()
        while True:
            page = await self._fills_page(symbol, at, size)
            found += page
            newest = max((int(item.get("timestamp") or 0) for item in page), default=at)
            if len(page) < size or newest <= at:
                return found
            at = newest

    async def _fills_page(self, symbol: str | None, at: int, size: int) -> list[Mapping[str, Any]]:
        page = await self._connection.read("list of fills", lambda asked: asked.fetch_my_trades(symbol, at, size))
        return list(page)

    async def _most_fills(self) -> int:
        """In one answer: exchanges refuse to be asked for more than they tell."""
        kind = ("spot", None) if self._spot else (self._market, "linear")
        exchange = await self._connection.ready()
        return min(FILLS_PAGE, exchange.feature_value_by_type(*kind, "fetchMyTrades", "limit") or FILLS_PAGE)

    async def transfers(self, since: datetime) -> Listed[Transfer]:
        """Deposits, withdrawals and transfers between wallets, at what they are worth now where not in money."""
        return await money.transfers(self._connection, self._venue, self._market, self._keep, since)

    async def latest_quote(self, symbol: str) -> datetime:
        ticker = await self._connection.read(f"ticker of {symbol}", lambda asked: asked.fetch_ticker(symbol))
        if ticker.get("timestamp") is None:
            raise BrokerUnavailable(
                f"{self.name}: {self._exchange} does not say when {symbol} was last quoted", account=self.name
            )
        return moment(ticker["timestamp"])

    async def not_permitted(self) -> Sequence[str]:
        """Binance tells what the keys may do, and with a spot balance whether the account may trade.

        Others say it when an order is sent, and so does Binance's test network, which has no such request.
        """
        body, may = await asyncio.gather(
            self._connection.read("balance", lambda asked: asked.fetch_balance(self._wallet())), self._rights()
        )
        found = () if at_path(body, ("info", "canTrade")) is not False else ("trade: the account may not",)
        return (*found, *(() if may is not False else ("trade in this market: these keys may only read",)))

    async def _rights(self) -> object:
        """Binance, get API key permission: whether the keys may trade in this market; None where nothing tells."""
        if self._exchange not in _TELLS_RIGHTS:
            return None
        try:
            told = await self._connection.read(
                "rights of the keys", lambda asked: asked.sapi_get_account_apirestrictions()
            )
        except BrokerError:
            return None
        return told.get("enableSpotAndMarginTrading" if self._spot else "enableFutures")

    async def cancel(self, order_id: str) -> CancelResult:
        return await self._cancels.one(order_id)

    async def cancel_all(self) -> Sequence[CancelResult]:
        return await self._cancels.all(self.open_orders)

    async def cancel_many(self, order_ids: Sequence[str]) -> Sequence[CancelResult]:
        return await self._cancels.many(order_ids)

    async def close(self, request: CloseOrder) -> CloseResult:
        """Send it once; where the answer was lost, look for it."""
        if request.symbol.endswith(LOAN):
            return await self._repay(request)
        if self._spot and request.quantity > 0 and request.side.value == "sell" and is_kept(request.symbol, self._keep):
            reason = f"{request.symbol.partition('/')[0]} is kept: it is not sold"
            return CloseResult(request.symbol, CloseOutcome.REFUSED, None, reason)
        self._symbols[request.client_order_id] = request.symbol
        kind = "market" if request.type is OrderType.MARKET else "limit"
        price = None if request.limit_price is None else _number(request.limit_price)
        quantity, params = _number(request.quantity), self._order_params(request)
        try:
            answer = await self._connection.change(
                f"close of {request.symbol}",
                lambda asked: asked.create_order(request.symbol, kind, request.side.value, quantity, price, params),
            )
        except MayHaveHappened as error:
            return await self._look_up(request, error)
        except VenueRefused as error:
            result = refused_close(request.symbol, error)
            return await self._held_or_gone(request, result) if self._spot else result
        return await self._accepted(request, answer)

    async def _held_or_gone(self, request: CloseOrder, refused: CloseResult) -> CloseResult:
        """Of a wallet's sale that lacks the funds: orders hold them, or so much is not there (any more)."""
        if refused.refusal is not Refusal.HELD:
            return refused
        try:
            body = await self._connection.read("balance", lambda asked: asked.fetch_balance(self._wallet()))
        except BrokerError:
            return refused
        base = request.symbol.partition("/")[0]
        if any(each.currency == base and each.total >= request.quantity for each in read_balances(body)[0]):
            return refused
        return replace(refused, refusal=Refusal.NOTHING_LEFT, reason=f"less is held than that of {base}")

    def _order_params(self, request: CloseOrder) -> dict[str, Any]:
        """ccxt's words: of `hedged` and `reduceOnly` it makes what the exchange calls a position's side."""
        params: dict[str, Any] = {}
        if self._venue.client_order_ids.longest:
            params[self._venue.id_key] = request.client_order_id
        if not self._spot and (request.reduce_only or request.position_side is not None):
            params["reduceOnly"] = True
        if request.position_side is not None:
            params["hedged"] = True
        if self._market == "margin":
            params |= {
                "marginMode": "cross",
                **({"sideEffectType": "AUTO_REPAY"} if "binance" in self._exchange else {}),
            }
        return params

    async def _accepted(self, request: CloseOrder, answer: Any) -> CloseResult:
        """What a normal answer says: an order, or a failure in the shape of one."""
        raw = str(answer.get("id") or "") if isinstance(answer, Mapping) else ""
        failure = failure_in(answer)
        if failure and (not raw or str(answer.get("status")) == "rejected"):  # what has got an id was taken
            code = failure.rpartition("(")[2].removesuffix(")")
            told = VenueRefused(failure, account=self.name, kind="ExchangeError", code=code, reason=failure)
            return refused_close(request.symbol, told)
        if not raw:
            lost = MayHaveHappened(f"{self.name}: the answer to the close names no order", account=self.name)
            return await self._look_up(request, lost)
        try:
            order = read_order({**answer, "symbol": answer.get("symbol") or request.symbol})
        except SENSELESS:
            return CloseResult(request.symbol, CloseOutcome.ACCEPTED)  # it has an id: how it stands is read later
        return CloseResult(request.symbol, CloseOutcome.ACCEPTED, order)

    async def _look_up(self, request: CloseOrder, lost: BrokerError) -> CloseResult:
        """The answer to a close was lost: whether it was taken is for the exchange to say."""
        try:
            order = await self._open_orders.find(request.client_order_id, request.symbol)
        except BrokerError as error:
            return CloseResult(request.symbol, CloseOutcome.UNKNOWN, None, f"{lost}; then {error}")
        if order is None:
            reason = f"{lost}; the exchange does not know the order (yet)"
            return CloseResult(request.symbol, CloseOutcome.UNKNOWN, None, reason)
        return CloseResult(request.symbol, CloseOutcome.ACCEPTED, order)

    async def _repay(self, request: CloseOrder) -> CloseResult:
        """A loan of the margin wallet is paid back with what is held of it."""
        currency, amount = request.symbol.removesuffix(LOAN), _number(request.quantity)
        try:
            await self._connection.change(
                f"repayment of {currency}", lambda asked: asked.repay_cross_margin(currency, amount)
            )
        except MayHaveHappened as error:
            return CloseResult(request.symbol, CloseOutcome.UNKNOWN, None, str(error))
        except VenueRefused as error:
            return refused_close(request.symbol, error)
        return CloseResult(request.symbol, CloseOutcome.ACCEPTED)

    async def arm_safety_net(self, timeout: timedelta) -> SafetyNet:
        symbols = {*self._net.covers}
        if self._venue.timer is not None and self._venue.timer.per_symbol:  # with those that have got orders since
            symbols |= {order.symbol for order in await self.open_orders()}
        self._net = await safety_net.arm(self._connection, self._venue, timeout, sorted(symbols))
        return self._net

    async def disarm_safety_net(self) -> None:
        by_symbol = self._venue.timer is not None and self._venue.timer.per_symbol
        symbols = self._net.covers or (await self._symbols_in_book() if by_symbol else ())
        self._net = await safety_net.disarm(self._connection, self._venue, symbols)

    async def safety_net(self) -> SafetyNet:
        """As it was last armed here: no exchange says how its timer stands, but in the answer to arming it."""
        return self._net

    def _note(self, orders: Sequence[Order]) -> None:
        self._seen |= {order.symbol for order in orders}
        self._symbols |= {order.client_order_id: order.symbol for order in orders if order.client_order_id}


async def _nothing() -> tuple[Unreadable, ...]:
    return ()


def _number(quantity: Decimal) -> float | str:
    """As ccxt takes numbers, unless that would lose a digit."""
    number = float(quantity)
    return number if Decimal(repr(number)) == quantity else f"{quantity:f}"
