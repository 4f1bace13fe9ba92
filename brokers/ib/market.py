"""Learn what the venue says of an account's contracts: steps, hours, prices. Nothing that closes waits for it long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from breaker.instruments import AssetClass, Instrument, Session
from breaker.orders import MarketClock, Position
from brokers.ib.connection import Connection, library
from brokers.ib.contracts import (
    WHENEVER_IT_TRADES,
    Details,
    Hours,
    Symbols,
    plain_instrument,
    read_bands,
    read_details,
    route_of,
)
from brokers.ib.reading import SENSELESS
from brokers.protocol import BrokerError, BrokerUnavailable

DETAILS_WITHIN: Final = 0.4
"""Seconds for which positions wait for what is said of their contracts; what comes later serves the next time."""
ROUTE_WITHIN: Final = 3.0
"""The same for a close that can't be sent without."""
DETAILS_AT_ONCE: Final = 20
HOURS_LAST: Final = timedelta(minutes=1)
"""After this they are asked for again."""
HOURS_BELIEVED: Final = timedelta(minutes=2)
"""How long they decide about anything while no newer ones come."""
Bands = tuple[tuple[Decimal, Decimal], ...]
MOST_QUOTES: Final = 50
"""Contracts whose prices are followed at once; TWS has a hundred lines for all its clients."""


class Market:
    """One account's contracts."""

    def __init__(self) -> None:
        self.symbols = Symbols()
        self.held: Sequence[Any] = ()
        """The contracts of the positions, as they were last read."""
        self._details: dict[int, tuple[datetime, Details]] = {}
        self._bands: dict[int, Bands] = {}
        """By the rules of TWS: the price steps; none while they are being asked for."""
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._priced: Connection | None = None
        self._closing: set[int] = set()

    def close(self) -> None:
        """Ask for nothing any more."""
        for task in self._asking.values():
            task.cancel()

    def note_close(self, contract: Any) -> None:
        """A close of it has been sent: its price is followed from now on, since a limit may be needed."""
        self._closing.add(contract.conId)

    # What is known

    def instrument(self, contract: Any) -> Instrument:
        return self.told_instrument(contract) or plain_instrument(contract)

    def told_instrument(self, contract: Any) -> Instrument | None:
        """None where the venue has said nothing of it yet."""
        known = self._details.get(contract.conId)
        if known is None:
            return None
        told, rule = known[1].instrument, known[1].rule
        bands = () if rule is None else self._bands.get(rule, ())
        return replace(told, price_bands=bands) if bands else told

    def clock(self, contract: Any, now: datetime) -> MarketClock | None:
        """The session of its own market; None where that is not known."""
        hours = self._hours(contract, now)
        return None if hours is None else hours.clock(now, self.instrument(contract).asset_class)

    def trades_only_outside(self, contract: Any) -> bool:
        """By the contract's own hours: not in its session, and traded all the same, as futures are at night."""
        now = datetime.now(UTC)
        hours = self._hours(contract, now)
        if hours is None or self.instrument(contract).asset_class is not AssetClass.FUTURE:
            return False
        return hours.trades_at(now) and not hours.is_liquid_at(now)

    def _hours(self, contract: Any, now: datetime) -> Hours | None:
        known = self._details.get(contract.conId)
        return known[1].hours if known and now - known[0] < HOURS_BELIEVED else None

    def routed(self, contract: Any) -> Any | None:
        """The contract as an order names it; None while it is not known where it trades."""
        known = self._details.get(contract.conId)
        exchange = route_of(contract, known[1] if known else None)
        if not exchange:
            return None
        return library().Contract(
            conId=contract.conId,
            symbol=contract.symbol,
            secType=contract.secType,
            currency=contract.currency,
            exchange=exchange,
        )

    async def route(self, reader: Connection, contract: Any) -> Any | None:
        """The same, after asking where it trades if that is not known: nothing can be sent without."""
        if self.routed(contract) is None:
            await self.learn(reader, [contract], within=ROUTE_WITHIN)
        return self.routed(contract)

    # Asking

    async def learn(self, reader: Connection, contracts: Iterable[Any], *, within: float = DETAILS_WITHIN) -> None:
        """Ask what the venue says of these contracts, as far as it is not known or old; wait for it a moment."""
        now = datetime.now(UTC)
        due = [c for c in contracts if c.conId not in self._details or now - self._details[c.conId][0] > HOURS_LAST]
        places = asyncio.Semaphore(DETAILS_AT_ONCE)
        for contract in due:
            if contract.conId not in self._asking:
                self._asking[contract.conId] = asyncio.create_task(self._ask_details(reader, contract, places))
        if waiting := {self._asking[contract.conId] for contract in due}:
            await asyncio.wait(waiting, timeout=within)

    async def _ask_details(self, reader: Connection, contract: Any, places: asyncio.Semaphore) -> None:
        """What can't be learnt is not known, and nothing that closes depends on it."""
        try:
            async with places:
                answer = await reader.details(contract)
                details = read_details(answer.items[0])
                self._details[contract.conId] = datetime.now(UTC), details
                if details.rule is not None and details.rule not in self._bands:
                    await self._ask_rule(reader, details.rule)
        except (BrokerError, IndexError, *SENSELESS):
            return
        finally:
            if self._asking.get(contract.conId) is asyncio.current_task():
                del self._asking[contract.conId]

    async def _ask_rule(self, reader: Connection, rule: int) -> None:
        """Once for all contracts that go by it. Raises `BrokerUnavailable`, or one of `SENSELESS`."""
        bands: Bands = ()
        self._bands[rule] = bands
        try:
            bands = read_bands(await reader.market_rule(rule))
        finally:
            if bands:
                self._bands[rule] = bands
            else:
                self._bands.pop(rule, None)

    async def on_its_step(self, reader: Connection, contract: Any, price: Decimal, *, up: bool) -> Decimal:
        """A price that TWS has refused (110), by the steps that it tells when it is asked again."""
        known = self._details.pop(contract.conId, None)
        if known is not None and known[1].rule is not None:
            self._bands.pop(known[1].rule, None)
        if (asking := self._asking.pop(contract.conId, None)) is not None:
            asking.cancel()
        await self.learn(reader, [contract], within=ROUTE_WITHIN)
        if known is not None:
            self._details.setdefault(contract.conId, known)
        return self.instrument(contract).price(price, up=up)

    async def follow_portfolio(self, reader: Connection, account: str) -> None:
        """Have TWS tell what the market gives for each position, once by each connection; nothing waits long."""
        if self._priced is reader:
            return
        self._priced = reader
        await asyncio.wait({asyncio.create_task(_quietly(reader.portfolio(account)))}, timeout=DETAILS_WITHIN)

    def follow(self, reader: Connection, positions: Sequence[Position]) -> None:
        """Follow the prices of what may need a limit: what was sent a close, and what trades out of session.

        `positions` are those of the contracts held.
        """
        ear = reader.listener
        watched = ear.watched()
        for contract, position in zip(self.held, positions, strict=True):
            out = position.market is not None and not position.market.is_open
            if contract.conId in watched or not (out or contract.conId in self._closing) or len(watched) >= MOST_QUOTES:
                continue
            routed = self.routed(contract)
            if routed is None:
                continue
            watched.add(contract.conId)
            try:
                reader.watch(routed)
            except BrokerUnavailable:
                return

    async def session(self, reader: Connection) -> MarketClock | None:
        """What all markets agree on in which something is held; that of US stocks where nothing is.

        None where they differ, or are not told. Raises `BrokerUnavailable`.
        """
        contracts = [contract for contract in self.held if self._keeps_a_session(contract)]
        if not contracts:
            contracts = [library().Stock("SPY", "SMART", "USD")]
        now = datetime.fromtimestamp(await reader.time(), UTC)
        answers = await asyncio.gather(*(reader.details(contract) for contract in _one_of_each(contracts)))
        read = [read_details(details) for answer in answers for details in answer.items[:1]]
        clocks = [details.hours.clock(now) for details in read if details.hours]
        if len({clock.is_open for clock in clocks}) != 1:
            return None
        return MarketClock(
            now,
            clocks[0].is_open,
            min((clock.next_open for clock in clocks if clock.next_open), default=None),
            min((clock.next_close for clock in clocks if clock.next_close), default=None),
        )

    def _keeps_a_session(self, contract: Any) -> bool:
        instrument = self.instrument(contract)
        return instrument.session is not Session.ALWAYS and instrument.asset_class not in WHENEVER_IT_TRADES


async def _quietly(asking: Awaitable[object]) -> None:
    try:
        await asking
    except BrokerUnavailable:
        return


def _one_of_each(contracts: Iterable[Any]) -> list[Any]:
    """One contract for each kind of thing and market: they have the same hours."""
    return list({(c.secType, c.primaryExchange or c.exchange, c.currency): c for c in contracts}.values())[:4]
