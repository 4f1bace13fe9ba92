"""Trip, reset and read the circuit breaker of one scope: for threads and for asyncio."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from breaker.checked_inputs import checked_seconds
from breaker.deadline_client import AsyncDeadlineClient, DeadlineClient
from breaker.durability import DEFAULT_DURABILITY, Durability
from breaker.errors import BreakerError
from breaker.events import History
from breaker.keys import GLOBAL
from breaker.requests import (
    Request,
    read_history_reply,
    read_status_replies,
    read_transition_reply,
    request_builder,
)
from breaker.state import State, Status, is_older, reject_older, unknown_status
from breaker.transition_terms import ResetToken, Watching

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis


class _CircuitBreakerBase:
    """What both breakers share: settings, requests, how replies are read, and the newest state seen so far."""

    def __init__(
        self,
        scope: str,
        timeout: float,
        quiet_period: float,
        reset_interval: float,
        source: str,
        durability: Durability,
    ) -> None:
        self._requests = request_builder(scope, source)
        self.keys = self._requests.keys
        self.timeout = checked_seconds(timeout, "timeout", least=0.001)
        self.quiet_period = checked_seconds(quiet_period, "quiet_period")
        self.reset_interval = checked_seconds(reset_interval, "reset_interval")
        self.durability = durability
        self._newest_seen: Status | None = None

    @property
    def scope(self) -> str:
        """What this breaker halts: `global`, or `kind:name` such as `account:ALPHA`."""
        return self.keys.scope

    def _followed(self, trip: Request) -> Request:
        """The trip, and after it whatever its durability asks."""
        return replace(trip, confirmation=self.durability.wait_command)

    def _read_trip(self, replies: Sequence[Any]) -> Status:
        status = read_transition_reply(replies[0], self.keys)
        return self._seen(status.with_unconfirmed(self.durability.why_unconfirmed(replies[0][0], replies[1:])))

    def _read_epoch(self, replies: Sequence[Any]) -> int | None:
        return read_status_replies(replies, self.keys).epoch

    def _read_transition(self, replies: Sequence[Any]) -> Status:
        return self._seen(read_transition_reply(replies[0], self.keys))

    def _read_status(self, replies: Sequence[Any], seen: Status | None) -> Status:
        """`seen` is the newest known before the request was sent; the answer can't be older by rights."""
        return self._seen(reject_older(read_status_replies(replies, self.keys), seen, self.keys.scope))

    def _seen(self, status: Status) -> Status:
        if status.epoch is not None and (self._newest_seen is None or not is_older(status, self._newest_seen)):
            self._newest_seen = status
        return status


class CircuitBreaker(_CircuitBreakerBase):
    """The circuit breaker of one scope.

    It opens connections of its own to the server that `redis` is for. Safe to share between threads, and to use after
    a fork. Transitions end within `timeout`, one way or the other. Reading the state never raises: what can't be read
    is UNKNOWN, which counts as tripped.

    Args:
        redis: A plain `redis.Redis`, however it is set up.
        scope: What to halt: `global`, or `kind:name` such as `account:ALPHA` or `strategy:meanrev`.
        timeout: Seconds after which each call has ended.
        quiet_period: Seconds of limited trading after a reset; 0 for none.
        reset_interval: Seconds between two resets of any scope (runbook: one per minute).
        source: Which way in this is, for the audit log: one of `breaker.requests.SOURCES`.
        durability: How far each trip is followed. One that is not confirmed in time is a trip all the same, and the
            status says so in `unconfirmed`.
        refusal_patience: Seconds after which a Redis that only refuses connections is not asked again; until `timeout`,
            unless given.

    Raises:
        InvalidInput: a setting or the scope makes no sense, or `redis` is no plain Redis client.

    Example:
        >>> import redis
        >>> from breaker import CircuitBreaker
        >>> breaker = CircuitBreaker(redis.Redis.from_url(url), "strategy:meanrev")
        >>> breaker.initialize_state(by="ada").state
        <State.OPEN: 'OPEN'>
        >>> breaker.trip("MANUAL", details={"operator": "ada", "reason": "fat finger"}).state
        <State.TRIPPED: 'TRIPPED'>
        >>> breaker.is_tripped()
        True
        >>> breaker.reset(reset_by="ada", reason="position corrected by hand").state
        <State.QUIET_PERIOD: 'QUIET_PERIOD'>
        >>> breaker.close()
    """

    def __init__(
        self,
        redis: Redis,
        scope: str = GLOBAL,
        *,
        timeout: float = 2.0,
        quiet_period: float = 300.0,
        reset_interval: float = 60.0,
        source: str = "library",
        durability: Durability = DEFAULT_DURABILITY,
        refusal_patience: float = float("inf"),
    ) -> None:
        super().__init__(scope, timeout, quiet_period, reset_interval, source, durability)
        self._client = DeadlineClient(redis, self.timeout, refusal_patience)

    def trip(
        self,
        reason: str,
        details: Mapping[str, Any] | None = None,
        *,
        tripped_by: str | None = None,
        event_id: str | None = None,
        incident_id: str | None = None,
        ip_address: str | None = None,
    ) -> Status:
        """Halt trading, from any state whatever.

        A breaker that is tripped already keeps the first trip's reason; this one counts, and is in history and outbox.

        Args:
            reason: Why: a `breaker.trip_reasons.TripReason`, or any text of 1 to 200 characters on one line.
            details: What JSON can hold, plus Decimal, UUID and times that have a zone; at most 16 kB.
            tripped_by: Who; `details["operator"]` unless given, or else the login name.
            event_id: A UUID. Giving the same one again changes nothing, and returns the state as it is by then.
            incident_id: A UUID, used if this trip begins an incident.
            ip_address: The caller's, for the audit log.

        Returns:
            The state after it.

        Raises:
            InvalidInput: an argument can't be used; nothing was sent.
            BreakerUnavailable: Redis gave no answer in time; the error says whether it may have happened.
            RedisRefused: Redis answered, and won't do it.

        Example:
            >>> breaker.trip("DRAWDOWN", {"drawdown": Decimal("0.061")}, tripped_by="risk engine").trip_reason
            'DRAWDOWN'
        """
        trip = self._requests.trip(reason, details, tripped_by, event_id, incident_id, ip_address)
        return self._read_trip(self._client.execute(self._followed(trip)))

    def reset(
        self,
        reset_by: str | None = None,
        reason: str | None = None,
        *,
        event_id: str | None = None,
        expected_incident_id: str | None = None,
        expected_epoch: int | None = None,
        details: Mapping[str, Any] | None = None,
        ip_address: str | None = None,
        token: ResetToken | None = None,
        ends_watched: bool = False,
    ) -> Status:
        """Let trading resume, with a quiet period first.

        This asks nobody and measures nothing. Where the operations tools are in use, `breaker reset`, the console or a
        recovery does (promise 9), and their health verification is red after a reset that comes straight from here.

        Without `expected_epoch` it is that of the state as it is when this is called: a trip that comes between call
        and reset, however long the network holds the reset back, is not undone.

        Args:
            reset_by: Who; the login name unless given.
            reason: Why, in at most 1,000 characters on one line.
            event_id: A UUID; as for `trip`.
            expected_incident_id: The incident that is to end.
            expected_epoch: The epoch of the state that is meant.
            details: What else the audit log is to have of it; as for `trip`.
            ip_address: The caller's, for the audit log.
            token: What this reset consumes, so that nothing resets twice by it.
            ends_watched: Whether its quiet period ends by its watch alone, not by time.

        Returns:
            The state after it: QUIET_PERIOD, or OPEN when `quiet_period` is 0.

        Raises:
            NotTripped: there is nothing to reset.
            ResetRateLimited: a reset of this or another scope came within `reset_interval`.
            StateConflict: the incident or the epoch isn't the expected one, or the token is spent.
            InvalidInput, BreakerUnavailable, RedisRefused: as for `trip`.

        Example:
            >>> tripped = breaker.trip("MANUAL")
            >>> breaker.reset("ada", "feed repaired, prices verified", expected_epoch=tripped.epoch).reset_by
            'ada'
        """
        by = time.monotonic() + self.timeout
        period, interval = self.quiet_period, self.reset_interval
        at_epoch = self._requests.reset(
            reset_by, reason, event_id, expected_incident_id, ip_address, period, interval, details, token, ends_watched
        )
        if expected_epoch is None:
            expected_epoch = self._read_epoch(self._client.execute(self._requests.state_before_reset(), by=by))
        return self._read_transition(self._client.execute(at_epoch(expected_epoch), by=by))

    def end_quiet_period(
        self, *, expected_epoch: int, by: str | None = None, event_id: str | None = None, watch: Watching | None = None
    ) -> Status:
        """Go from QUIET_PERIOD to OPEN.

        Args:
            expected_epoch: That of the quiet period that is to end.
            by: Who; the login name unless given.
            event_id: A UUID; as for `trip`.
            watch: Whose watch is over, where the quiet period ends by that alone.

        Returns:
            The state after it.

        Raises:
            StateConflict: there is no quiet period, or a transition has happened since `expected_epoch`;
                QuietPeriodUnwatched: its watch has not covered it.
            InvalidInput, BreakerUnavailable, RedisRefused: as for `trip`.

        Example:
            >>> _ = breaker.trip("MANUAL")
            >>> quiet = breaker.reset("ada")
            >>> breaker.end_quiet_period(expected_epoch=quiet.epoch).state
            <State.OPEN: 'OPEN'>
        """
        request = self._requests.end_quiet_period(expected_epoch, by, event_id, watch)
        return self._read_transition(self._client.execute(request))

    def initialize_state(self, force: bool = False, by: str | None = None, *, event_id: str | None = None) -> Status:
        """Create the state OPEN where there is none; a valid one stays as it is.

        Args:
            force: Also overwrite garbage, or an OPEN state, with a fresh one.
            by: Who; the login name unless given.
            event_id: A UUID; as for `trip`.

        Returns:
            The state after it.

        Raises:
            StateConflict: garbage is stored and `force` is not given; or it is given, and the state is TRIPPED or in a
                running quiet period, which only a reset and time may end.
            InvalidInput, BreakerUnavailable, RedisRefused: as for `trip`.

        Example:
            >>> _ = breaker.trip("MANUAL")
            >>> breaker.initialize_state().state
            <State.TRIPPED: 'TRIPPED'>
        """
        return self._read_transition(self._client.execute(self._requests.initialize(force, by, event_id)))

    def get_status(self) -> Status:
        """The state at this moment by Redis's clock. Never raises.

        Returns:
            What is stored; UNKNOWN, with `problem`, if it can't be told.

        Example:
            >>> status = breaker.get_status()
            >>> status["state"], status.get("tripped_at", "N/A")
            ('OPEN', 'N/A')
        """
        seen = self._newest_seen
        try:
            return self._read_status(self._client.execute(self._requests.status()), seen)
        except BreakerError as error:
            return unknown_status(str(error))

    def get_state(self) -> State:
        """`get_status().state`: the bare state. Never raises."""
        return self.get_status().state

    def is_tripped(self) -> bool:
        """True for TRIPPED, and for UNKNOWN too: what can't be read is closed. Never raises."""
        return self.get_status().is_tripped

    def get_history(self, limit: int = 10) -> History:
        """The newest transitions, newest first. The newest 1,000 are kept; the audit log has all.

        A member that somebody else has added, or damaged, hides no other: it is in the result's `unreadable`.

        Args:
            limit: How many at most, from 1 to 1,000.

        Returns:
            The transitions, newest first: a list, with what can't be read in `unreadable`.

        Raises:
            StateConflict: what is stored there is no sorted set.
            InvalidInput, BreakerUnavailable, RedisRefused: as for `trip`.

        Example:
            >>> _ = breaker.trip("MANUAL"), breaker.reset("ada")
            >>> [str(event.transition) for event in breaker.get_history(2)]
            ['RESET', 'TRIP']
        """
        return read_history_reply(self._client.execute(self._requests.history(limit))[0], self.keys)

    def close(self) -> None:
        """Close the breaker's own connections. It may be used again afterwards."""
        self._client.close()


class AsyncCircuitBreaker(_CircuitBreakerBase):
    """`CircuitBreaker` for asyncio: the same arguments, results and errors; each method is awaited.

    Safe to share between tasks, and to use from one event loop after another.

    Args:
        redis: A `redis.asyncio.Redis`, however it is set up.
        scope: As for `CircuitBreaker`, like all that follow.
        timeout: Seconds after which each call has ended.
        quiet_period: Seconds of limited trading after a reset; 0 for none.
        reset_interval: Seconds between two resets of any scope.
        source: Which way in this is, for the audit log.
        durability: How far each trip is followed.
        refusal_patience: As for `CircuitBreaker`.

    Raises:
        InvalidInput: a setting or the scope makes no sense, or `redis` is no plain Redis client.

    Example:
        >>> import redis.asyncio
        >>> from breaker import AsyncCircuitBreaker
        >>> async def halt() -> str:
        ...     async with redis.asyncio.Redis.from_url(url) as client:
        ...         breaker = AsyncCircuitBreaker(client)
        ...         status = await breaker.trip("MANUAL", details={"operator": "ada"})
        ...         await breaker.close()
        ...     return status["state"]
        >>> asyncio.run(halt())
        'TRIPPED'
    """

    def __init__(
        self,
        redis: AsyncRedis,
        scope: str = GLOBAL,
        *,
        timeout: float = 2.0,
        quiet_period: float = 300.0,
        reset_interval: float = 60.0,
        source: str = "library",
        durability: Durability = DEFAULT_DURABILITY,
        refusal_patience: float = float("inf"),
    ) -> None:
        super().__init__(scope, timeout, quiet_period, reset_interval, source, durability)
        self._client = AsyncDeadlineClient(redis, self.timeout, refusal_patience)

    async def trip(
        self,
        reason: str,
        details: Mapping[str, Any] | None = None,
        *,
        tripped_by: str | None = None,
        event_id: str | None = None,
        incident_id: str | None = None,
        ip_address: str | None = None,
    ) -> Status:
        """See `CircuitBreaker.trip`."""
        trip = self._requests.trip(reason, details, tripped_by, event_id, incident_id, ip_address)
        return self._read_trip(await self._client.execute(self._followed(trip)))

    async def reset(
        self,
        reset_by: str | None = None,
        reason: str | None = None,
        *,
        event_id: str | None = None,
        expected_incident_id: str | None = None,
        expected_epoch: int | None = None,
        details: Mapping[str, Any] | None = None,
        ip_address: str | None = None,
        token: ResetToken | None = None,
        ends_watched: bool = False,
    ) -> Status:
        """See `CircuitBreaker.reset`."""
        by = time.monotonic() + self.timeout
        period, interval = self.quiet_period, self.reset_interval
        at_epoch = self._requests.reset(
            reset_by, reason, event_id, expected_incident_id, ip_address, period, interval, details, token, ends_watched
        )
        if expected_epoch is None:
            expected_epoch = self._read_epoch(await self._client.execute(self._requests.state_before_reset(), by=by))
        return self._read_transition(await self._client.execute(at_epoch(expected_epoch), by=by))

    async def end_quiet_period(
        self, *, expected_epoch: int, by: str | None = None, event_id: str | None = None, watch: Watching | None = None
    ) -> Status:
        """See `CircuitBreaker.end_quiet_period`."""
        request = self._requests.end_quiet_period(expected_epoch, by, event_id, watch)
        return self._read_transition(await self._client.execute(request))

    async def initialize_state(
        self, force: bool = False, by: str | None = None, *, event_id: str | None = None
    ) -> Status:
        """See `CircuitBreaker.initialize_state`."""
        return self._read_transition(await self._client.execute(self._requests.initialize(force, by, event_id)))

    async def get_status(self) -> Status:
        """See `CircuitBreaker.get_status`."""
        seen = self._newest_seen
        try:
            return self._read_status(await self._client.execute(self._requests.status()), seen)
        except BreakerError as error:
            return unknown_status(str(error))

    async def get_state(self) -> State:
        """See `CircuitBreaker.get_state`."""
        return (await self.get_status()).state

    async def is_tripped(self) -> bool:
        """See `CircuitBreaker.is_tripped`."""
        return (await self.get_status()).is_tripped

    async def get_history(self, limit: int = 10) -> History:
        """See `CircuitBreaker.get_history`."""
        return read_history_reply((await self._client.execute(self._requests.history(limit)))[0], self.keys)

    async def close(self) -> None:
        """See `CircuitBreaker.close`."""
        await self._client.close()
