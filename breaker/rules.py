"""Trip automatically (runbook, *Automatic Trips*): what is measured is judged in the script that records it.

So the 11th error trips in the same step in which it is counted, however many processes count, and no poller's
interval lies between a drawdown and its trip. Only old age has no event of its own: `check_staleness` is called by
gates, the exporter and the scheduled verification, and whoever is first trips.

Keys, with `:{scope}` appended for a scope other than global:

| key | type | content |
| --- | --- | --- |
| `circuit_breaker:api_errors` | zset | one member per error of the window, score Unix microseconds |
| `circuit_breaker:api_success` | hash | when each source last succeeded |
| `circuit_breaker:equity` | hash | equity, high-water mark, the day's first equity |
| `circuit_breaker:equity_readings` | list | the newest 1,000 readings, each with what was judged from after it |
| `circuit_breaker:transfers` | hash | money moved in and out, by the transfer's id |
| `circuit_breaker:rejections` | hash | orders rejected in a row |
| `circuit_breaker:orders_sent` | zset | one member per message of the last second, score Unix microseconds |
| `circuit_breaker:executions` | hash | executions of a strategy since a person enabled it |
| `circuit_breaker:believed_positions` | string | the positions that the engine believes in |
| `circuit_breaker:heartbeat:{feed}` | string | time of the feed's newest data |
| `circuit_breaker:feeds` | hash | since when a feed that never came has been waited for |
| `circuit_breaker:would_have_tripped` | stream | what rules in dry run would have done; the newest 1,000 |
| `circuit_breaker:refused_measurements` | hash | how many impossible measurements were refused |
| `circuit_breaker:confirmations` | hash | measurements in a row beyond each limit |
| `circuit_breaker:judged` | hash | when each rule last heard something, and how much of its limit that was |
| `circuit_breaker:rule_warnings` | stream | what came near a limit, of every scope; about the newest 1,000 |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from breaker.async_rules import AsyncRules
from breaker.checked_inputs import checked_seconds
from breaker.deadline_client import DeadlineClient
from breaker.keys import GLOBAL, Keys
from breaker.limits import Limits, Rule
from breaker.requests import Request, raise_if_error
from breaker.rule_requests import (
    READ_CLOCK,
    Calendar,
    Outcome,
    RuleRequests,
    Verdict,
    limits_of,
    market_open_since,
    read_counts,
    read_entries,
    read_outcome,
    read_transfers,
)

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["AsyncRules", "Calendar", "Limits", "Outcome", "Rule", "Rules", "Verdict"]


class Rules:
    """Records measurements of one scope, any of which may trip its breaker.

    Safe to share between threads. When Redis is away or refuses, a measurement may have been recorded or not; it is
    counted once at most.

    Args:
        redis: A plain `redis.Redis`; connections of its own are opened to the same server.
        scope: Whose breaker is tripped.
        limits: This scope's, or a mapping of scopes to theirs in which `global` stands in for those not named.
        calendar: When the market is open, for the age of data; without one it always is.
        timeout: Seconds after which each call has ended.

    Raises:
        InvalidInput: a setting or the scope makes no sense, or `redis` is no plain Redis client.

    Example:
        >>> from breaker.rules import Limits, Rules
        >>> rules = Rules(client, limits=Limits(drawdown=Decimal("0.05")))
        >>> rules.record_equity(Decimal("1000000")).verdict
        <Verdict.WITHIN: 'WITHIN'>
        >>> rules.record_equity(Decimal("940000")).verdict
        <Verdict.TRIPPED: 'TRIPPED'>
        >>> CircuitBreaker(client).get_status().trip_reason
        'DRAWDOWN'
    """

    def __init__(
        self,
        redis: Redis,
        scope: str = GLOBAL,
        *,
        limits: Limits | Mapping[str, Limits] = Limits(),  # noqa: B008 -- frozen
        calendar: Calendar | None = None,
        timeout: float = 2.0,
    ) -> None:
        self._requests = RuleRequests(Keys.of(scope), limits_of(scope, limits))
        self._calendar = calendar
        self._client = DeadlineClient(redis, checked_seconds(timeout, "timeout", least=0.001))

    @property
    def limits(self) -> Limits:
        """Those of this scope."""
        return self._requests.limits

    def record_api_error(self, source: str) -> Outcome:
        """Count one failed call to a venue or service (runbook: trips when more than 10 come in 5 minutes).

        Args:
            source: Which venue or service, in 1 to 200 characters.

        Returns:
            What came of it.

        Raises:
            InvalidInput: `source` is empty or too long.
            BreakerUnavailable, RedisRefused: as for `CircuitBreaker.trip`.

        Example:
            >>> strict = Rules(client, limits=Limits(api_errors=1))
            >>> [str(strict.record_api_error("alpaca").verdict) for _ in range(2)]
            ['WITHIN', 'TRIPPED']
        """
        return self._record(self._requests.api_error(source))

    def record_api_success(self, source: str) -> Outcome:
        """A call succeeded; errors that were waiting to be confirmed no longer are.

        Args:
            source: As for `record_api_error`.

        Returns:
            WITHIN.

        Raises:
            InvalidInput, BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        return self._record(self._requests.api_success(source))

    def record_latency(self, seconds: float, source: str) -> Outcome:
        """A call was answered, so late; what isn't answered at all is an API error.

        Args:
            seconds: From sending the request until its answer was there.
            source: As for `record_api_error`. A quick answer of any source ends a row of slow ones.

        Returns:
            What came of it, by API_LATENCY; REFUSED for what is no number.

        Raises:
            InvalidInput, BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        return self._record(self._requests.latency(seconds, source))

    def record_order_rejected(self, why: str) -> Outcome:
        """The venue rejected an order, which lengthens a row of rejections.

        Args:
            why: The venue's reason, in 1 to 200 characters.

        Returns:
            What came of it.

        Raises:
            InvalidInput, BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        return self._record(self._requests.order_rejected(why))

    def record_order_accepted(self) -> Outcome:
        """The venue accepted an order, which ends a row of rejections.

        Returns:
            WITHIN, or OFF.

        Raises:
            BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        return self._record(self._requests.order_accepted())

    def record_equity(
        self,
        value: Decimal | float | str,
        at: datetime | None = None,
        *,
        trusted: bool = True,
        day: date | None = None,
        event_id: str | None = None,
        currency: str | None = None,
    ) -> Outcome:
        """Record the account's equity (runbook: trips more than 5 % under its high-water mark).

        Zero and less are the worst drawdown there is, and trip, but zero of an account that never had anything: it is
        not funded yet. NaN, infinity, text, a time in the future and one before the last are REFUSED, and so is what
        the venue itself doesn't trust: it is set aside.

        Args:
            value: The equity, in the account's currency.
            at: When it was measured, with a zone; now unless given.
            trusted: Whether the venue stands by it.
            day: The trading day that it belongs to, for DAILY_LOSS; that of `at` in UTC unless given.
            event_id: An id (UUID) of the caller's own, so that recording it once more counts once.
            currency: Its code, such as `USD`; the same as before unless given. Any but the high-water mark's is
                REFUSED, and kept for a re-base: amounts of two currencies can't be compared.

        Returns:
            The gravest verdict of the rules that look at equity: DRAWDOWN, DAILY_LOSS, LOSS_VELOCITY.

        Raises:
            InvalidInput: `at` has no zone, `event_id` is no UUID, or `currency` names none.
            BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        return self._record(
            self._requests.equity(value, at, trusted=trusted, day=day, event_id=event_id, currency=currency)
        )

    def record_transfer(self, amount: Decimal | float | str, at: datetime | None, transfer_id: str) -> Outcome:
        """Money was moved in or out of the account, which is neither a gain nor a loss.

        High-water mark and the day's first equity are scaled by (equity + amount) / equity, so that the rules see what
        they would of an account without transfers. A reading of equity is taken to have what was moved by its time:
        one after `at` is waited for, one that has come already is judged anew, with all that followed (the newest 1,000
        readings; what was moved before is REFUSED). When between two readings money was moved isn't known: of the
        equity before it and the one after it that one counts that leaves the greater fall. Of an account that has
        nothing, no share can be told: there the amount itself is added.

        Args:
            amount: In the account's currency, negative for what left it.
            at: When it was moved, with a zone; None for now.
            transfer_id: The venue's id, in 1 to 200 characters; each counts once.

        Returns:
            WITHIN, whose `effect` says what came of it; or, where the newest reading is beyond a limit by it, as for
            `record_equity`; or REFUSED.

        Raises:
            InvalidInput: `at` has no zone, or the id is empty or too long.
            BreakerUnavailable, RedisRefused: as for `record_api_error`.

        Example:
            >>> _ = rules.record_equity(100_000)
            >>> _ = rules.record_transfer(-6_000, None, "W-1")
            >>> rules.record_equity(94_000).verdict
            <Verdict.WITHIN: 'WITHIN'>
        """
        return self._record(self._requests.transfer(amount, at, transfer_id))

    def transfers(self) -> list[tuple[datetime, Decimal]]:
        """What was told of money moved in and out. The newest 10,000 are kept.

        Returns:
            When each was moved, in UTC, and the amount; oldest first.

        Raises:
            BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        return read_transfers(self._reply(self._requests.transfers()))

    def rebase_equity(self, value: Decimal | float | str | None = None, *, event_id: str | None = None) -> Outcome:
        """Begin anew, as high-water mark and as the day's first equity: after a deposit, a withdrawal or a drawdown.

        `breaker equity rebase` and a reset do so for people, by permission and on record. This is the bare step.

        Args:
            value: The equity from now on, in the account's currency; None for the last that was measured. Where that
                one was refused for its currency, it begins in that currency.
            event_id: An id (UUID) of the caller's own, so that doing it once more changes nothing.

        Returns:
            WITHIN, whose details have what there was before; or REFUSED for what is no equity.

        Raises:
            BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        return self._record(self._requests.rebase(value, event_id))

    def heartbeat(self, feed: str, at: datetime | None = None) -> Outcome:
        """A feed has delivered data.

        Args:
            feed: Its name: letters, digits, `_`, `.`, `-`, at most 64.
            at: The time of the data, with a zone; now unless given. One in the future is REFUSED.

        Returns:
            WITHIN or REFUSED.

        Raises:
            InvalidInput: the name can't be one, or `at` has no zone.
            BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        return self._record(self._requests.heartbeat(feed, at))

    def check_staleness(self, feeds: Sequence[str]) -> Outcome:
        """Judge the age of data (runbook: trips when it is older than 30 minutes).

        With a calendar only time in which the market was open counts. A feed that has never come is as old as the
        waiting for it.

        Args:
            feeds: The feeds' names; the oldest one's data is judged.

        Returns:
            What came of it.

        Raises:
            InvalidInput: no feed is named, or a name can't be one.
            BreakerUnavailable, RedisRefused: as for `record_api_error`.

        Example:
            >>> _ = rules.heartbeat("quotes", datetime.now(UTC) - timedelta(minutes=31))
            >>> rules.check_staleness(["quotes"]).verdict
            <Verdict.TRIPPED: 'TRIPPED'>
        """
        open_since = "" if self._calendar is None else market_open_since(self._calendar, self._reply(READ_CLOCK))
        return self._record(self._requests.staleness(feeds, open_since))

    def record_order_sent(self, what: str = "order") -> Outcome:
        """The engine sends a message to the venue: an order, a replace or a cancel.

        Args:
            what: Which kind, in 1 to 200 characters.

        Returns:
            What came of it, by ORDER_RATE: more than the limit within a second trips.

        Raises:
            InvalidInput, BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        return self._record(self._requests.order_sent(what))

    def record_execution(self) -> Outcome:
        """The strategy was executed once more without a person (RTS 6 Art. 15(3)).

        A reset of this scope's breaker by a person enables it again and begins the count anew; nothing else does.

        Returns:
            What came of it, by REPEATED_EXECUTION.

        Raises:
            BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        return self._record(self._requests.execution())

    def record_margin(self, required: Decimal | float | str, equity: Decimal | float | str) -> Outcome:
        """Record the maintenance margin that the venue requires.

        Args:
            required: In the account's currency.
            equity: The same account's; of none left any margin is too much.

        Returns:
            What came of it, by MARGIN; REFUSED for what is no number.

        Raises:
            BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        return self._record(self._requests.margin(required, equity))

    def record_positions(self, positions: Mapping[str, tuple[Decimal, Decimal]], *, by_amount: bool = True) -> Outcome:
        """Record all positions as the venue reports them.

        Args:
            positions: By symbol: the signed quantity, and the notional in the account's currency.
            by_amount: False where the notionals are in another currency than the limits: then only quantities count.

        Returns:
            The gravest verdict of POSITION_SIZE, GROSS_EXPOSURE and POSITION_MISMATCH. The last one compares with what
            the engine has published, by the same canonical symbols; without that it judges nothing.

        Raises:
            BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        return self._record(self._requests.positions(positions, by_amount=by_amount))

    def publish_positions(self, positions: Mapping[str, Decimal]) -> None:
        """Say which positions the engine believes to hold, for POSITION_MISMATCH. Those of before are forgotten.

        Args:
            positions: The signed quantity by symbol.

        Raises:
            InvalidInput: a quantity is no number.
            BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        raise_if_error(self._reply(self._requests.believed_positions(positions)))

    def check_silence(self, rules: Sequence[Rule]) -> Outcome:
        """Judge for how long rules have heard nothing. With a calendar only time in which the market was open counts.

        Args:
            rules: Those that should hear something all the time.

        Returns:
            Details whose `silent` names the rules that heard nothing for longer than `Limits.silence`; the verdict is
            OFF unless that trips (`Limits.silence_trips`).

        Raises:
            InvalidInput: no rule is named, or silence is not judged.
            BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        open_since = "" if self._calendar is None else market_open_since(self._calendar, self._reply(READ_CLOCK))
        return self._record(self._requests.silence(rules, open_since))

    def refused_measurements(self) -> dict[str, int]:
        """How many impossible measurements were refused.

        Returns:
            The count by kind: `EQUITY`, `EQUITY_UNTRUSTED`, `EQUITY_CURRENCY`, `TRANSFER`, `HEARTBEAT`.

        Raises:
            BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        return read_counts(self._reply(self._requests.refused_measurements()))

    def would_have_tripped(self, limit: int = 100) -> list[dict[str, str]]:
        """What rules in dry run would have done. The newest 1,000 are kept.

        Args:
            limit: How many at most.

        Returns:
            Each as `rule`, `scope`, `at` and `details` (JSON), newest first.

        Raises:
            BreakerUnavailable, RedisRefused: as for `record_api_error`.
        """
        return read_entries(self._reply(self._requests.would_have_tripped(limit)))

    def close(self) -> None:
        """Close the connections. They may be used again afterwards."""
        self._client.close()

    def _record(self, request: Request) -> Outcome:
        return read_outcome(self._reply(request))

    def _reply(self, request: Request) -> object:
        return self._client.execute(request)[0]
