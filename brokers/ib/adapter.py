"""Close one account at Interactive Brokers, through a Trader Workstation or IB Gateway that is logged in to it.

What shapes this adapter: TWS cancels one order only for the client that placed it, and all orders of the login for
anybody; it refuses no second order with the same reference; lists have no pages and no numbers; and TWS answers from
what it knows even while it has lost the venue, which is not believed.
"""

from __future__ import annotations

import asyncio
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from breaker.instruments import Instrument
from breaker.orders import ZERO, Account, Fill, MarketClock, Order, OrderType, Position, Side, TimeInForce, Unreadable
from brokers.ib.connection import ClientIdTaken, Connection, library
from brokers.ib.contracts import Symbols, expired_on
from brokers.ib.logins import Logins
from brokers.ib.market import Market
from brokers.ib.orders import Orders
from brokers.ib.reading import (
    PRICE_STEP,
    SENSELESS,
    TwsError,
    amount,
    cancelled,
    refused,
    values_of,
)
from brokers.protocol import (
    Broker,
    BrokerError,
    BrokerUnavailable,
    CancelOutcome,
    CancelResult,
    Capabilities,
    ClientOrderIds,
    CloseOrder,
    CloseOutcome,
    CloseResult,
    Listed,
)

if TYPE_CHECKING:
    from configuration.accounts import AccountSettings

REFERENCES: Final = ClientOrderIds(60, string.ascii_letters + string.digits + "-_.", unique=False)
"""What goes into `orderRef`. How long it may be is not told; longer ones have been taken."""
REQUESTS_PER_MINUTE: Final = 45 * 60
"""TWS takes 50 messages a second; ib_async sends at most 45."""
_NOT_TAKEN: Final = frozenset({103, 110, 200, 201, 203, 321, 388, 435, 10243, 10318})
"""Errors after which it is certain that TWS does not have the order."""
_OLD_NUMBER: Final = 103
_LOST: Final = frozenset({100, 1100, 2110})
"""Errors that say nothing of the order which was sent: too many messages, the venue is out of reach."""
_EXPIRED: Final = "{symbol} traded last on {day}: nobody can trade it any more, and the venue settles it"


class IbBroker(Broker):
    """One account at one TWS. Keep one instance per account and process: it holds the connections.

    Args:
        name: the account's name in the configuration.
        host: where TWS or IB Gateway runs.
        port: its API's port: 7496 for TWS, 4001 for IB Gateway; 7497 and 4002 when they are logged in to paper trading.
        client_id: the client of TWS as which closes are placed, of this account's own.
        ib_account: such as `U1234567`; the login's only one unless given.
        timeout: longest wait for one answer, seconds.
        keep: currencies whose pairs are no positions here: those of which they are the first.
    """

    capabilities = Capabilities(
        bulk_cancel=True,
        bulk_close=False,
        reduce_only=False,
        fractional=False,
        requests_per_minute=REQUESTS_PER_MINUTE,
        page_size=1_000_000,
        fills=True,
        client_order_ids=REFERENCES,
    )

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        client_id: int,
        ib_account: str | None = None,
        *,
        timeout: float = 5.0,
        keep: Collection[str] = (),
    ) -> None:
        self.name = name
        self._where = f"{host}:{port}"
        self._keep = frozenset(keep)
        self._logins = Logins(name, host, port, client_id, ib_account, timeout)
        self._market = Market()
        self._orders = Orders(name, self._logins, self._market)
        self._references: tuple[Connection, int, set[str]] | None = None
        """Of every order placed before this connection was made, and by it since, while TWS never lost its venue."""

    def __repr__(self) -> str:
        return f"IbBroker({self.name!r}, {self._where!r})"

    async def aclose(self) -> None:
        self._market.close()
        self._logins.close()

    # Reading

    async def account(self) -> Account:
        reader = await self._logins.reader()
        answer = await reader.summary()
        told = {tag: (value, currency) for account, tag, value, currency in answer.items if account == self._account}
        try:
            equity, currency = values_of(told, "NetLiquidation")
            return Account(
                id=self._account,
                currency=currency,
                equity=equity,
                buying_power=values_of(told, "BuyingPower")[0],
                initial_margin=values_of(told, "InitMarginReq")[0] if "InitMarginReq" in told else None,
                maintenance_margin=values_of(told, "MaintMarginReq")[0] if "MaintMarginReq" in told else None,
            )
        except SENSELESS as error:
            raise self._not_understood("summary of the account", error) from None

    @property
    def _symbols(self) -> Symbols:
        return self._market.symbols

    @property
    def _account(self) -> str:
        account = self._logins.account
        assert account is not None  # noqa: S101 - every connection has made sure of it
        return account

    async def clock(self) -> MarketClock:
        """The session of what is held, where all of it is in the same; of US stocks where nothing is held.

        Each position has its own besides. Raises `BrokerUnavailable` where there is no one session to tell.
        """
        reader = await self._logins.reader()
        try:
            clock = await self._market.session(reader)
        except SENSELESS as error:
            raise self._not_understood("trading hours", error) from None
        if clock is None:
            words = "the trading hours of what is held differ from market to market, or are not told"
            raise BrokerUnavailable(f"{self.name}: {words}", account=self.name)
        return clock

    async def positions(self) -> Listed[Position]:
        reader = await self._logins.reader()
        answer, _ = await asyncio.gather(reader.positions(), self._market.follow_portfolio(reader, self._account))
        held: list[tuple[Any, Decimal, Decimal]] = []
        unreadable = [raw.item for raw in answer.undecodable if raw.account == self._account]
        for account, contract, quantity, cost in answer.items:
            if account != self._account or (contract.secType == "CASH" and contract.symbol in self._keep):
                continue
            try:
                size, average = amount(quantity), amount(cost)
            except SENSELESS as error:
                unreadable.append(Unreadable("position", contract.symbol, "", str(error)))
                continue
            if size:
                self._symbols.add(contract)
                held.append((contract, size, average))
        self._market.held = [contract for contract, _, _ in held]
        await self._market.learn(reader, self._market.held)
        now = datetime.now(UTC)
        positions = tuple(self._position(reader, *each, now) for each in held)
        self._market.follow(reader, positions)
        return Listed(positions, tuple(unreadable))

    def _position(self, reader: Connection, contract: Any, size: Decimal, cost: Decimal, now: datetime) -> Position:
        """The average cost counts the multiplier in; the market's price comes by itself, as long as there is one.

        While an order that was cancelled may turn out to have filled, nothing of it is available to a close.
        """
        instrument, symbol = self._market.instrument(contract), self._symbols.name(contract)
        waits = self._orders.may_still_fill(symbol, Side.SELL if size > 0 else Side.BUY)
        ear = reader.listener
        return Position(
            symbol=symbol,
            quantity=size,
            available=ZERO if waits else abs(size),
            average_entry_price=cost / instrument.multiplier,
            current_price=ear.quote_of(contract.conId) or ear.prices.get(contract.conId),
            instrument=instrument,
            market=self._market.clock(contract, now),
        )

    async def instruments(self, symbols: Collection[str]) -> Mapping[str, Instrument]:
        """Of what has been read so far: a symbol alone names no contract."""
        reader = await self._logins.reader()
        contracts = {symbol: self._symbols.contract(symbol) for symbol in symbols}
        known = {symbol: contract for symbol, contract in contracts.items() if contract is not None}
        await self._market.learn(reader, known.values())
        told = {symbol: self._market.told_instrument(contract) for symbol, contract in known.items()}
        return {symbol: instrument for symbol, instrument in told.items() if instrument is not None}

    async def not_permitted(self) -> Sequence[str]:
        """Asks to cancel an order that can't exist: a TWS that is read-only refuses that."""
        trader = await self._logins.trader()
        try:
            await trader.cancel(2**31 - 2)
        except TwsError as error:
            if cancelled("", error).outcome is CancelOutcome.REFUSED:
                return [f"cancelling and closing: {cancelled('', error).reason}"]
        except (TimeoutError, ConnectionError):
            return ["cancelling: TWS does not answer"]
        return []

    # Orders

    async def open_orders(self) -> Listed[Order]:
        """Every open order of the account: those of all clients of TWS, and those placed by hand."""
        return await self._orders.open_orders()

    async def order(self, client_order_id: str, symbol: str | None = None) -> Order | None:
        """Among the open ones, then among those that are over; how much has filled is counted from the executions."""
        return await self._orders.order(client_order_id)

    async def fills(self, since: datetime) -> Listed[Fill]:
        """Those of today: TWS tells of no others."""
        return await self._orders.fills(since)

    async def cancel_all(self) -> Sequence[CancelResult]:
        """One request for the whole login, other clients' orders and those placed by hand among them.

        Where the login manages several accounts they would all lose theirs: then one by one, and this account's only.
        """
        return await self._orders.cancel_all()

    async def cancel(self, order_id: str) -> CancelResult:
        """As the client that placed it, which is taken over where it has left TWS."""
        return await self._orders.cancel(order_id)

    # Closing

    async def close(self, request: CloseOrder) -> CloseResult:
        """Send it once, unless an order with its reference is there already."""
        contract = self._symbols.contract(request.symbol)
        if contract is None:
            await self.positions()
            contract = self._symbols.contract(request.symbol)
        if contract is None:
            return self._refused(request, f"no position in {request.symbol} tells which contract that is")
        if (last := expired_on(contract, datetime.now(UTC))) is not None:
            return self._refused(request, _EXPIRED.format(symbol=request.symbol, day=last))
        routed = self._market.routed(contract) or await self._market.route(await self._logins.reader(), contract)
        if routed is None:
            return self._refused(request, f"TWS does not tell at which exchange {request.symbol} trades")
        try:
            trader = await self._logins.trader()
        except ClientIdTaken as error:
            return self._refused(request, f"{error}; another process of ours may be closing")
        if request.client_order_id in await self._known_references(trader):
            return CloseResult(
                request.symbol, CloseOutcome.DUPLICATE, None, f"TWS has an order {request.client_order_id} already"
            )
        self._market.note_close(contract)
        return await self._place(trader, routed, request, self._market.trades_only_outside(contract))

    async def _known_references(self, trader: Connection) -> set[str]:
        """Of all orders of today. Alone under its client id, a connection learns them once and adds its own."""
        losses = self._logins.link.losses
        if self._references is not None and self._references[:2] == (trader, losses) and self._logins.alone:
            return self._references[2]
        day = await self._orders.read_day()
        self._references = trader, losses, day.references()
        return self._references[2]

    async def _place(
        self, trader: Connection, contract: Any, request: CloseOrder, outside: bool, *, renumbered: bool = False
    ) -> CloseResult:
        """`contract` as orders name it; `outside`: it trades now, though not in its session."""
        try:
            state = await trader.place(contract, self._order_for(contract, request, outside=outside))
        except TwsError as error:
            if error.code == PRICE_STEP and (again := await self._on_its_step(contract, request)) is not None:
                return await self._place(trader, contract, again, outside, renumbered=renumbered)
            if error.code == _OLD_NUMBER and not renumbered:
                await trader.learn_numbers()
                return await self._place(trader, contract, request, outside, renumbered=True)
            if error.code in _NOT_TAKEN:
                return refused(request.symbol, error)
            return await self._look_up(request, error)
        except (TimeoutError, ConnectionError) as error:
            return await self._look_up(request, error)
        if state.status == "Inactive":
            # Why comes apart from that, or not at all; whether it is over is for the lists to say.
            return await self._look_up(request, TwsError(201, "TWS set it aside as inactive"))
        self._note_reference(trader, request)
        return CloseResult(request.symbol, CloseOutcome.ACCEPTED)

    async def _on_its_step(self, contract: Any, request: CloseOrder) -> CloseOrder | None:
        """The same close at a price that is in whole steps; None where it was, as far as TWS tells."""
        if request.limit_price is None:
            return None
        reader, up = await self._logins.reader(), request.side is Side.BUY
        price = await self._market.on_its_step(reader, contract, request.limit_price, up=up)
        return None if price == request.limit_price else replace(request, limit_price=price)

    def _note_reference(self, trader: Connection, request: CloseOrder) -> None:
        if self._references is not None and self._references[0] is trader:
            self._references[2].add(request.client_order_id)

    async def _look_up(self, request: CloseOrder, lost: Exception) -> CloseResult:
        """What became of the order is not known, or not certain: whether it was taken is for the lists to say."""
        said = str(lost) or "TWS has not answered"
        self._references = None  # whatever was sent last, they are learnt anew before the next
        try:
            order = await self.order(request.client_order_id)
        except BrokerError as error:
            return CloseResult(request.symbol, CloseOutcome.UNKNOWN, None, f"{said}; then {error}")
        if order is not None:
            return CloseResult(request.symbol, CloseOutcome.ACCEPTED, order)
        if isinstance(lost, TwsError) and lost.code not in _LOST:
            return refused(request.symbol, lost)
        return CloseResult(request.symbol, CloseOutcome.UNKNOWN, None, f"{said}; TWS does not list the order (yet)")

    def _order_for(self, contract: Any, request: CloseOrder, *, outside: bool) -> Any:
        """Quantities and prices go as they are written. Crypto takes market orders only for at once."""
        order = library().Order()
        is_market = request.type is OrderType.MARKET
        order.action = request.side.value.upper()
        order.totalQuantity = f"{request.quantity:f}"
        order.orderType = "MKT" if is_market else "LMT"
        if request.limit_price is not None:
            order.lmtPrice = f"{request.limit_price:f}"
        at_once = is_market and contract.secType == "CRYPTO"
        order.tif = (TimeInForce.IOC if at_once else request.time_in_force).value.upper()
        order.orderRef = request.client_order_id
        order.account = self._account
        order.outsideRth = request.extended_hours or outside
        return order

    @staticmethod
    def _refused(request: CloseOrder, why: str) -> CloseResult:
        return CloseResult(request.symbol, CloseOutcome.REFUSED, None, why)

    def _not_understood(self, what: str, error: Exception) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self.name}: TWS's {what} can't be understood ({type(error).__name__}: {error})", account=self.name
        )


def from_settings(name: str, account: AccountSettings) -> IbBroker:
    """The entry point of adapter `ib`. Nothing is imported or asked yet: what is wrong is told by the first call."""
    assert account.port is not None  # noqa: S101 - the settings have made sure of it
    return IbBroker(
        name,
        account.host,
        account.port,
        account.client_id,
        account.ib_account,
        timeout=account.request_timeout,
        keep=account.keep,
    )
