"""Read one account at its venue, keep what it said, and let the rules judge it.

Each request is made once: one that fails is an API error of the account's breaker, as an engine's own would be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TypeVar
from uuid import UUID, uuid5

from breaker.errors import InvalidInput
from breaker.orders import Account, Position
from breaker.rule_requests import OTHER_CURRENCY, is_currency
from breaker.rules import AsyncRules, Outcome, Verdict
from brokers.protocol import Broker, BrokerError, BrokerUnavailable, Listed, Transfer, repeat_until
from configuration.monitor import OWN_FEED
from tasks.monitor.measurements import Kept, Measurements, Reading
from tasks.monitor.sessions import MarketSession
from tasks.monitor.transfer_time import day_began, moved_at, moved_on_their_days
from tasks.monitor.transfers import LOOK_BACK, KnownTransfers

_LOOKS = 3
"""How often at most transfers are looked for in one reading, where each look finds some."""
_NAMESPACE = UUID("0c7f3a52-52a0-5e0b-9a53-6a0c3f1d7c11")
_T = TypeVar("_T")


class RequestPace:
    """A share of a rate limit, so that whoever needs the rest finds it: the kill switch, and engines.

    Args:
        per_minute: The venue's limit; None where it has none.
        share: The fraction of it that may be used.
    """

    def __init__(self, per_minute: int | None, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds_each = 0.0 if per_minute is None else 60.0 / (per_minute * share)
        self._clock = clock
        self._free_at = float("-inf")

    @property
    def seconds_to_wait(self) -> float:
        """Until as much time has passed as the requests so far have used up."""
        return max(0.0, self._free_at - self._clock())

    def used(self, requests: int) -> None:
        self._free_at = max(self._free_at, self._clock()) + requests * self._seconds_each


@dataclass(frozen=True, slots=True)
class Judged:
    """A measurement, and what the rules said of it: of its equity, of its positions, of its margin."""

    kept: Kept
    reading: Reading
    outcomes: tuple[Outcome, ...]
    problems: tuple[BrokerError, ...] = ()
    """What else of the account the venue did not tell, or told so that it can't be judged."""


class MonitoredAccount:
    """One account under the eyes of one holder.

    Args:
        patience: Seconds that one request may take, waiting included.
        session: Where the trading day begins; UTC's day without one. Asked before each judgement.
    """

    def __init__(
        self,
        name: str,
        broker: Broker,
        rules: AsyncRules,
        measurements: Measurements,
        transfers: KnownTransfers,
        pace: RequestPace,
        patience: float,
        session: Callable[[], Awaitable[MarketSession]] | None = None,
    ) -> None:
        self.name = name
        self._broker = broker
        self._rules = rules
        self._measurements = measurements
        self._transfers = transfers
        self._pace = pace
        self._patience = patience
        self._session = session
        self._source = f"monitor of {name}"

    @property
    def seconds_to_wait(self) -> float:
        """Before the next reading, lest the rate limit's share is exceeded."""
        return self._pace.seconds_to_wait

    async def measure(self) -> Judged | None:
        """Read it once and have it judged.

        Returns:
            None for a reading that is not to be judged: another process has taken over, or the venue's figures are the
            same as before.

        Raises:
            BrokerError: the venue gave no answer, which is counted as an API error, or this process's share of its rate
                limit was not to be had in time, which is not.
            BreakerUnavailable, RedisRefused: it could not be kept, or not be judged.
        """
        failed: list[BrokerError] = []
        senseless: list[BrokerError] = []
        account, positions = await self._read(failed)
        for _ in range(_LOOKS):
            news = await self._new_transfers(failed, senseless)
            if not news:
                break
            # Whether that equity had them nobody can tell; the one that is read now has, and it may have more of them.
            account, positions = await self._read(failed)
            senseless += await self._tell(news, account)
        if positions is not None and positions.unreadable:
            senseless.append(self._unreadable(positions, "the rules of positions are not judged"))
        reading = reading_of(account, positions)
        kept = await self._measurements.keep(self.name, reading)
        if kept is None:
            return None
        if not failed:
            await self._rules.record_api_success(self._source)
        await self._rules.heartbeat(OWN_FEED)
        outcomes = await self._judge(kept, reading, positions)
        return Judged(kept, reading, outcomes, (*failed, *senseless))

    async def _read(self, failed: list[BrokerError]) -> tuple[Account, Listed[Position] | None]:
        """The equity has to be had; it is judged also where the positions are not."""
        account = await self._asked(self._broker.account)
        try:
            return account, await self._asked(self._broker.positions)
        except BrokerError as error:
            failed.append(error)
            return account, None

    async def _new_transfers(self, failed: list[BrokerError], senseless: list[BrokerError]) -> list[Transfer]:
        """What the venue lists and the rules have not been told of.

        Where the venue doesn't say, the equity is judged all the same: a loss must not hide behind that.
        """
        if not self._broker.capabilities.transfers:
            return []
        since = datetime.now(UTC) - LOOK_BACK
        try:
            listed = await self._asked(lambda: self._broker.transfers(since))
        except BrokerError as error:
            failed.append(error)
            return []
        if listed.unreadable:
            senseless.append(self._unreadable(listed, "what they moved counts as gained or lost"))
        return await self._transfers.news(listed)

    async def _tell(self, news: Sequence[Transfer], account: Account) -> list[BrokerError]:
        """Tell the rules of money that was moved, which `account` has; returns what they don't take."""
        moved = await self._moved_at(news, account)
        # What went out comes first: of both between two readings the deposit alone would look like a loss meanwhile.
        in_order = sorted(news, key=lambda each: each.amount)
        refused = [await self._tell_one(transfer, moved[transfer.id]) for transfer in in_order]
        await self._transfers.add(news)
        return [each for each in refused if each is not None]

    async def _moved_at(self, news: Sequence[Transfer], account: Account) -> Mapping[str, datetime | None]:
        """By id when each is to be taken for moved; None for now."""
        previous = await self._measurements.newest(self.name)
        moved = {each.id: moved_at(each, previous) for each in news}
        by_day = [each for each in news if each.by_day]
        if not by_day or previous is None:
            return moved
        readings = await self._measurements.equities(self.name, day_began(by_day), account.currency)
        if not readings:
            return moved
        known = [(moved[each.id], each.amount) for each in news if not each.by_day]
        told = await self._rules.transfers()
        return moved | moved_on_their_days(by_day, readings, account.equity, (*told, *known))

    async def _tell_one(self, transfer: Transfer, at: datetime | None) -> BrokerError | None:
        """Why the rules don't take it; None where they do."""
        try:
            outcome = await self._rules.record_transfer(transfer.amount, at, transfer.id)
        except InvalidInput as error:
            problem = str(error)
        else:
            if outcome.verdict is not Verdict.REFUSED:
                return None
            problem = outcome.details["problem"]
        return BrokerError(f"{self.name}: transfer {transfer.id!r:.60}: {problem}", account=self.name)

    def _unreadable(self, listed: Listed[Position] | Listed[Transfer], so: str) -> BrokerError:
        others = f" and {len(listed.unreadable) - 1} more" if len(listed.unreadable) > 1 else ""
        return BrokerError(f"{self.name}: {listed.unreadable[0]}{others}; {so}", account=self.name)

    async def _judge(self, kept: Kept, reading: Reading, positions: Listed[Position] | None) -> tuple[Outcome, ...]:
        """Positions of which some can't be read are not judged: no sum can be told of them."""
        # Its time comes along: one that a later one has overtaken, while this process was stopped, is refused.
        outcomes = [
            await self._rules.record_equity(
                reading.equity,
                kept.at,
                trusted=not reading.untrusted,
                day=await self._trading_day(kept.at),
                event_id=str(uuid5(_NAMESPACE, f"{self.name} {kept.id}")),
                currency=reading.currency if is_currency(reading.currency) else None,
            )
        ]
        if positions is not None and not positions.unreadable:
            same_money = outcomes[0].details.get("kind") != OTHER_CURRENCY
            outcomes.append(await self._rules.record_positions(held(positions), by_amount=same_money))
        if reading.maintenance_margin is not None and not reading.untrusted:
            outcomes.append(await self._rules.record_margin(reading.maintenance_margin, reading.equity))
        return tuple(outcomes)

    async def _trading_day(self, at: datetime) -> date | None:
        return None if self._session is None else (await self._session()).trading_day(at)

    async def _asked(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        self._pace.used(1)
        repeating = repeat_until.set(float("-inf"))
        try:
            async with asyncio.timeout(self._patience):
                return await ask()
        except TimeoutError:
            used_up = f"{self.name}: its venue's rate limit is used up by others"
            raise BrokerUnavailable(used_up, account=self.name) from None
        except BrokerError:
            await self._rules.record_api_error(self._source)
            raise
        finally:
            repeat_until.reset(repeating)

    async def aclose(self) -> None:
        await self._broker.aclose()
        await self._rules.close()


def held(positions: Iterable[Position]) -> dict[str, tuple[Decimal, Decimal]]:
    """By symbol the signed quantity and the notional, of both sides together in hedge mode. Pure."""
    found: dict[str, tuple[Decimal, Decimal]] = {}
    for position in positions:
        quantity, notional = found.get(position.symbol, (Decimal(0), Decimal(0)))
        found[position.symbol] = (quantity + position.quantity, notional + position.notional)
    return found


def reading_of(account: Account, positions: Listed[Position] | None) -> Reading:
    """What is kept and judged of the two answers. Pure."""
    worth = None if positions is None else [position.notional for position in positions]
    return Reading(
        equity=account.equity,
        currency=account.currency,
        positions=None if positions is None else len(positions),
        gross_exposure=None if worth is None else sum(worth, Decimal(0)),
        largest_position=None if worth is None else max(worth, default=Decimal(0)),
        initial_margin=account.initial_margin,
        maintenance_margin=account.maintenance_margin,
        as_of=account.as_of,
        untrusted=account.untrusted,
    )
