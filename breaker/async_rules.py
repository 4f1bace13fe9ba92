"""Record and judge measurements as `breaker.rules` does, for asyncio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from breaker.checked_inputs import checked_seconds
from breaker.deadline_client import AsyncDeadlineClient
from breaker.keys import GLOBAL, Keys
from breaker.limits import Limits, Rule
from breaker.requests import Request, raise_if_error
from breaker.rule_requests import (
    READ_CLOCK,
    Calendar,
    Outcome,
    RuleRequests,
    limits_of,
    market_open_since,
    read_outcome,
    read_transfers,
)

if TYPE_CHECKING:
    from redis.asyncio import Redis as AsyncRedis


class AsyncRules:
    """`Rules` for asyncio: the same arguments, results and errors; each method is awaited.

    Args:
        redis: A `redis.asyncio.Redis`.
        scope: As for `Rules`, like all that follow.
        limits: This scope's, or a mapping of scopes to theirs.
        calendar: When the market is open.
        timeout: Seconds after which each call has ended.

    Raises:
        InvalidInput: a setting or the scope makes no sense, or `redis` is no plain Redis client.

    Example:
        >>> import redis.asyncio
        >>> from breaker.rules import AsyncRules
        >>> async def count_one() -> str:
        ...     async with redis.asyncio.Redis.from_url(url) as client:
        ...         rules = AsyncRules(client)
        ...         outcome = await rules.record_api_error("alpaca")
        ...         await rules.close()
        ...     return outcome.details["measured"]
        >>> asyncio.run(count_one())
        '1'
    """

    def __init__(
        self,
        redis: AsyncRedis,
        scope: str = GLOBAL,
        *,
        limits: Limits | Mapping[str, Limits] = Limits(),  # noqa: B008 -- frozen
        calendar: Calendar | None = None,
        timeout: float = 2.0,
    ) -> None:
        self._requests = RuleRequests(Keys.of(scope), limits_of(scope, limits))
        self._calendar = calendar
        self._client = AsyncDeadlineClient(redis, checked_seconds(timeout, "timeout", least=0.001))

    @property
    def limits(self) -> Limits:
        """See `Rules.limits`."""
        return self._requests.limits

    async def record_api_error(self, source: str) -> Outcome:
        """See `Rules.record_api_error`."""
        return await self._record(self._requests.api_error(source))

    async def record_api_success(self, source: str) -> Outcome:
        """See `Rules.record_api_success`."""
        return await self._record(self._requests.api_success(source))

    async def record_latency(self, seconds: float, source: str) -> Outcome:
        """See `Rules.record_latency`."""
        return await self._record(self._requests.latency(seconds, source))

    async def record_order_rejected(self, why: str) -> Outcome:
        """See `Rules.record_order_rejected`."""
        return await self._record(self._requests.order_rejected(why))

    async def record_order_accepted(self) -> Outcome:
        """See `Rules.record_order_accepted`."""
        return await self._record(self._requests.order_accepted())

    async def record_equity(
        self,
        value: Decimal | float | str,
        at: datetime | None = None,
        *,
        trusted: bool = True,
        day: date | None = None,
        event_id: str | None = None,
        currency: str | None = None,
    ) -> Outcome:
        """See `Rules.record_equity`."""
        return await self._record(
            self._requests.equity(value, at, trusted=trusted, day=day, event_id=event_id, currency=currency)
        )

    async def record_transfer(self, amount: Decimal | float | str, at: datetime | None, transfer_id: str) -> Outcome:
        """See `Rules.record_transfer`."""
        return await self._record(self._requests.transfer(amount, at, transfer_id))

    async def transfers(self) -> list[tuple[datetime, Decimal]]:
        """See `Rules.transfers`."""
        return read_transfers(await self._reply(self._requests.transfers()))

    async def rebase_equity(
        self, value: Decimal | float | str | None = None, *, event_id: str | None = None
    ) -> Outcome:
        """See `Rules.rebase_equity`."""
        return await self._record(self._requests.rebase(value, event_id))

    async def heartbeat(self, feed: str, at: datetime | None = None) -> Outcome:
        """See `Rules.heartbeat`."""
        return await self._record(self._requests.heartbeat(feed, at))

    async def check_staleness(self, feeds: Sequence[str]) -> Outcome:
        """See `Rules.check_staleness`."""
        open_since = "" if self._calendar is None else market_open_since(self._calendar, await self._reply(READ_CLOCK))
        return await self._record(self._requests.staleness(feeds, open_since))

    async def record_order_sent(self, what: str = "order") -> Outcome:
        """See `Rules.record_order_sent`."""
        return await self._record(self._requests.order_sent(what))

    async def record_execution(self) -> Outcome:
        """See `Rules.record_execution`."""
        return await self._record(self._requests.execution())

    async def record_margin(self, required: Decimal | float | str, equity: Decimal | float | str) -> Outcome:
        """See `Rules.record_margin`."""
        return await self._record(self._requests.margin(required, equity))

    async def record_positions(
        self, positions: Mapping[str, tuple[Decimal, Decimal]], *, by_amount: bool = True
    ) -> Outcome:
        """See `Rules.record_positions`."""
        return await self._record(self._requests.positions(positions, by_amount=by_amount))

    async def publish_positions(self, positions: Mapping[str, Decimal]) -> None:
        """See `Rules.publish_positions`."""
        raise_if_error(await self._reply(self._requests.believed_positions(positions)))

    async def check_silence(self, rules: Sequence[Rule]) -> Outcome:
        """See `Rules.check_silence`."""
        open_since = "" if self._calendar is None else market_open_since(self._calendar, await self._reply(READ_CLOCK))
        return await self._record(self._requests.silence(rules, open_since))

    async def close(self) -> None:
        """See `Rules.close`."""
        await self._client.close()

    async def _record(self, request: Request) -> Outcome:
        return read_outcome(await self._reply(request))

    async def _reply(self, request: Request) -> object:
        return (await self._client.execute(request))[0]
