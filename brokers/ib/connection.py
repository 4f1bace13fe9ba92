"""Hold one connection to Trader Workstation or IB Gateway: open it within a limit, ask, and drop it when it is behind.

Nothing is asked while TWS has no venue: it would answer from what it knew. It tells its clients when it has one again,
and where that word is lost a new connection hears how it is.

A list that TWS sends has no number: one that comes too late would be taken for the answer to the next question. So a
connection of which an answer is overdue is dropped, and the next question makes another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from typing import Any, Final

from brokers.ib.listener import (
    CLIENT_ID_TAKEN,
    COMPLETED_ORDERS,
    GOING,
    MARKET_RULE,
    NEXT_ID,
    OPEN_ORDERS,
    PORTFOLIO,
    POSITIONS,
    TAKEN,
    TIME,
    Answer,
    Listener,
    VenueLink,
)
from brokers.ib.reading import OrderState, TwsError
from brokers.protocol import BrokerRefused, BrokerUnavailable

EXTRA: Final = 'adapter ib needs ib_async: pip install "trading-breaker-ops[ib]"'
IMPORTED_WITHIN: Final = 20.0
"""Seconds that importing ib_async may take on a busy machine."""
TOLD_WITHIN: Final = 1.0
"""Seconds that a new connection waits to hear whether TWS has its venue, where it had none."""
TOLD_TOGETHER: Final = 0.2
"""Seconds within which what TWS tells a new client comes."""
DOUBT_LASTS: Final = 60.0
"""Seconds after which a TWS that says nothing of its venue to a new client is taken to have one."""
_SUMMARY: Final = "NetLiquidation,BuyingPower,InitMarginReq,MaintMarginReq,GrossPositionValue"
BY_HAND: Final = 0
"""The client id to which TWS gives the orders that people place in it."""


class ClientIdTaken(BrokerUnavailable):
    """Another client of TWS has this id."""


def library() -> Any:
    """ib_async, imported when it is needed. Raises ImportError where the extra is not installed."""
    ib_async = import_module("ib_async")
    # What it reports goes to standard error where nobody has configured logging; each failure is told by us, once.
    logging.getLogger("ib_async").setLevel(logging.CRITICAL)
    return ib_async


class _Decoder:
    """ib_async's decoder, but that a message which can't be decoded is told instead of dropped."""

    def __init__(self, decoder: Any, listener: Listener) -> None:
        self._decoder = decoder
        self._listener = listener

    @property
    def serverVersion(self) -> int:  # noqa: N802 - the client's name for it
        return int(self._decoder.serverVersion)

    @serverVersion.setter
    def serverVersion(self, version: int) -> None:  # noqa: N802
        self._decoder.serverVersion = version

    def interpret(self, fields: list[str]) -> None:
        try:
            handler = self._decoder.handlers.get(int(fields[0]))
            if handler is not None:
                handler(fields)
        except Exception:  # whatever a message of an unexpected shape makes the decoder raise
            self._listener.undecodable(fields)


class Connection:
    """One client of TWS. `timeout`: seconds that connecting, or one answer, may take."""

    def __init__(self, account: str, host: str, port: int, timeout: float, link: VenueLink | None = None) -> None:
        self._account = account
        self._where = f"{host}:{port}"
        self._host, self._port, self._timeout = host, port, timeout
        self.link = link or VenueLink()
        self.listener = Listener(self.link)
        self.losses = self.link.losses
        """How often TWS had lost its venue when this was made: what was told before the next time is out of date."""
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._one_at_a_time: dict[str, asyncio.Lock] = {}
        self._summary_number = 0
        self.client_id = -1
        self.accounts: tuple[str, ...] = ()
        """What the login manages."""

    @property
    def is_ready(self) -> bool:
        """Whether it can be asked, from the loop that runs now."""
        client = self._client
        if client is None or not client.isReady() or self._loop is not asyncio.get_running_loop():
            return False
        transport = client.conn.transport
        return transport is not None and not transport.is_closing()

    async def open(self, client_id: int) -> None:
        """Raises `ClientIdTaken`, `BrokerUnavailable`, `BrokerRefused` where the extra is not installed."""
        self._loop = asyncio.get_running_loop()
        client = self._client = (await self._library()).client.Client(self.listener)
        client.decoder = _Decoder(client.decoder, self.listener)
        self.listener.client_id = self.client_id = client_id
        gone: asyncio.Future[None] = self._loop.create_future()

        def left(_: str) -> None:
            if not gone.done():
                gone.set_result(None)

        client.conn.disconnected += left
        opening = asyncio.create_task(client.connectAsync(self._host, self._port, client_id, self._timeout))
        try:
            await asyncio.wait({opening, gone}, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
            if opening.done() and opening.exception() is None:
                self.accounts = tuple(client.getAccounts())
                self.listener.refused = None
                if client_id == BY_HAND:
                    client.reqAutoOpenOrders(True)
                if self.link.lost_at is not None:
                    await self._ask_for_the_venue(self.link.lost_at)
                return
            raise self._not_open(opening, closed=gone.done())
        finally:
            if not opening.done():
                opening.cancel()
            with contextlib.suppress(BaseException):
                await asyncio.wait({opening}, timeout=0.1)
            if not client.isReady():
                self.close()

    async def _ask_for_the_venue(self, lost_at: float) -> None:
        """TWS had lost it: whether it still has none it tells whoever comes (2110), beside its farms of data."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TOLD_WITHIN):
                await self.listener.told.wait()
        await asyncio.sleep(TOLD_TOGETHER)
        told = self.listener.told.is_set() or time.monotonic() - lost_at > DOUBT_LASTS
        if told and not self.listener.no_venue:
            self.link.find()

    async def _library(self) -> Any:
        """On a thread: importing it takes 0.2 s, which the other accounts' first cancels don't wait for."""
        try:
            async with asyncio.timeout(IMPORTED_WITHIN):
                return await asyncio.to_thread(library)
        except TimeoutError:
            raise self._unavailable("connecting", f"ib_async was not imported within {IMPORTED_WITHIN:g} s") from None
        except ImportError as error:
            raise self.refused(f"{EXTRA} ({error})") from None

    def _not_open(self, opening: asyncio.Task[Any], *, closed: bool) -> BrokerUnavailable:
        refused = self.listener.refused
        if refused is not None and refused.code == CLIENT_ID_TAKEN:
            return ClientIdTaken(
                f"{self._account}: client id {self.client_id} is in use at TWS at {self._where}; give the account a "
                "client_id of its own",
                account=self._account,
            )
        error = opening.exception() if opening.done() and not opening.cancelled() else None
        if isinstance(error, ConnectionRefusedError):
            what = "nothing listens there: start TWS or IB Gateway, and enable its API (API, Settings)"
        elif closed or isinstance(error, ConnectionError):
            what = "TWS ended the connection: it is restarting, or does not trust this host (API, Settings)"
        elif isinstance(error, OSError) and not isinstance(error, TimeoutError):
            what = str(error)
        else:
            what = f"no answer within {self._timeout:g} s; is it TWS that listens there, and does it ask to allow this?"
        return self._unavailable("connecting", what)

    def close(self) -> None:
        """Leave; doing so twice is fine."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):  # its loop may have ended before it
                client.disconnect()
        self.listener.fail(ConnectionError("the connection has been closed"))

    # Questions

    async def open_orders(self) -> Answer:
        """Every open order of the login, of all clients and by hand."""
        return await self._list(OPEN_ORDERS, lambda client: client.reqAllOpenOrders())

    async def bound_orders(self) -> Answer:
        """As client 0: its orders, and what was placed by hand or through another TWS, which is bound to it by that.

        The list of all orders gives them none (TWS API, modifying orders).
        """
        return await self._list(OPEN_ORDERS, lambda client: client.reqOpenOrders())

    async def completed_orders(self) -> Answer:
        return await self._list(COMPLETED_ORDERS, lambda client: client.reqCompletedOrders(False))

    async def positions(self) -> Answer:
        """Of every account of the login."""
        answer = await self._list(POSITIONS, lambda client: client.reqPositions())
        if self._client is not None:
            self._client.cancelPositions()
        return answer

    async def portfolio(self, account: str) -> Answer:
        """From now on the market's prices of this account's positions are told."""
        return await self._list(PORTFOLIO, lambda client: client.reqAccountUpdates(True, account))

    async def time(self) -> int:
        """Unix seconds by the venue's clock."""
        answer = await self._list(TIME, lambda client: client.reqCurrentTime())
        return int(answer.items[0])

    async def summary(self) -> Answer:
        """Each account's figures: account, tag, value, currency.

        It is a subscription, of which TWS lets a client have two, counted by their numbers (error 322): so it has one
        number, and is ended each time.
        """
        what = "reqAccountSummary"
        async with self._one_at_a_time.setdefault(what, asyncio.Lock()):
            client = self._ready(what)
            number = self._summary_number = self._summary_number or client.getReqId()
            try:
                return await self._answer(number, what, lambda: client.reqAccountSummary(number, "All", _SUMMARY))
            except asyncio.CancelledError:
                self.close()  # what is still to come would be taken for the next one's
                raise
            finally:
                if self._client is not None:
                    self._client.cancelAccountSummary(number)

    async def executions(self) -> Answer:
        """Those of today, of all clients."""
        no_filter = library().ExecutionFilter()
        return await self._ask("reqExecutions", lambda client, number: client.reqExecutions(number, no_filter))

    async def details(self, contract: Any) -> Answer:
        """What the venue says of one contract; `BrokerUnavailable` where it knows no such thing, too."""
        return await self._ask("reqContractDetails", lambda c, number: c.reqContractDetails(number, contract))

    async def market_rule(self, rule_id: int) -> list[Any]:
        """The price steps by that rule: lowest prices and increments. Nothing is dropped where TWS tells of none."""
        what, key = "reqMarketRule", (MARKET_RULE, rule_id)
        client = self._ready(what)
        answer = self.listener.answers.get(key) or self.listener.expect(key)
        try:
            client.reqMarketRule(rule_id)
            await asyncio.wait({answer.done}, timeout=self._timeout)
        finally:
            self.listener.answers.pop(key, None)
        if not answer.done.done() or answer.done.exception() is not None:
            raise self._unavailable(what, "no answer")
        return answer.items

    def watch(self, contract: Any) -> None:
        """From now on the market's prices of this contract are told."""
        client = self._ready("reqMktData")
        number = client.getReqId()
        self.listener.watch(number, contract.conId)
        client.reqMktData(number, contract, "", False, False, [])

    async def learn_numbers(self) -> None:
        """Ask from which number on orders are new ones to TWS."""
        await self._list(NEXT_ID, lambda client: client.reqIds(1))

    async def place(self, contract: Any, order: Any) -> OrderState:
        """What TWS says of the order first. Raises `TwsError`, `BrokerUnavailable`, `TimeoutError` if it is silent."""
        client = self._ready("placeOrder")
        client.updateReqId(self.listener.highest_order_id + 1)
        order_id = client.getReqId()
        async with self._order(order_id, TAKEN) as answer:
            client.placeOrder(order_id, contract, order)
            return await answer

    async def cancel(self, order_id: int) -> OrderState:
        """The same of the cancel of an order of this client's."""
        client = self._ready("cancelOrder")
        async with self._order(order_id, GOING) as answer:
            client.cancelOrder(order_id)
            return await answer

    @contextlib.asynccontextmanager
    async def _order(self, order_id: int, states: frozenset[str]) -> AsyncIterator[asyncio.Future[OrderState]]:
        answer = self.listener.expect_order(order_id, states)
        try:
            async with asyncio.timeout(self._timeout):
                yield answer
        finally:
            self.listener.orders.pop(order_id, None)

    def cancel_globally(self) -> None:
        """Ask for every open order of the login to be cancelled; TWS answers nothing."""
        self.listener.last_error = None
        self._ready("reqGlobalCancel").reqGlobalCancel()

    async def _list(self, what: str, send: Callable[[Any], None]) -> Answer:
        """Ask for what comes without a number, one question at a time."""
        async with self._one_at_a_time.setdefault(what, asyncio.Lock()):
            client = self._ready(what)
            return await self._answer(what, what, lambda: send(client))

    async def _ask(self, what: str, send: Callable[[Any, int], None]) -> Answer:
        client = self._ready(what)
        number = client.getReqId()
        return await self._answer(number, what, lambda: send(client, number))

    async def _answer(self, key: str | int, what: str, send: Callable[[], None]) -> Answer:
        answer = self.listener.expect(key)
        try:
            send()
            async with asyncio.timeout(self._timeout):
                await answer.done
        except TimeoutError:
            self.close()
            raise self._unavailable(what, f"no answer within {self._timeout:g} s") from None
        except ConnectionError as error:
            raise self._unavailable(what, str(error)) from None
        except TwsError as error:
            raise self._unavailable(what, str(error)) from None
        except asyncio.CancelledError:
            if isinstance(key, str):
                self.close()
            raise
        else:
            return answer
        finally:
            self.listener.answers.pop(key, None)

    def _ready(self, what: str) -> Any:
        if not self.is_ready:
            raise self._unavailable(what, "the connection has been closed")
        if self.link.lost_at is not None:
            raise self._unavailable(
                what, "TWS has lost its connection to the venue (1100); it makes it again by itself"
            )
        return self._client

    def _unavailable(self, what: str, why: str) -> BrokerUnavailable:
        return BrokerUnavailable(f"{self._account}: {what} at TWS at {self._where}: {why}", account=self._account)

    def refused(self, why: str) -> BrokerRefused:
        return BrokerRefused(f"{self._account}: {why}", account=self._account)
