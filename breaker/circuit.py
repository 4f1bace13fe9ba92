"""The circuit breaker: its transitions and what can be asked of it, for threads and for asyncio."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from breaker.deadline_client import AsyncDeadlineClient, DeadlineClient
from breaker.durability import DEFAULT_DURABILITY, Durability
from breaker.errors import BreakerError
from breaker.events import TransitionEvent
from breaker.keys import GLOBAL
from breaker.requests import (
    Request,
    checked_seconds,
    read_history_reply,
    read_status_replies,
    read_transition_reply,
    request_builder,
)
from breaker.state import State, Status, is_older, reject_older, unknown_status

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis


class _Core:
    """What both breakers share: settings, and the newest state seen so far."""

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
        self._seen: Status | None = None

    @property
    def scope(self) -> str:
        return self.keys.scope

    def _trip_request(
        self,
        reason: str,
        details: Mapping[str, Any] | None,
        tripped_by: str | None,
        event_id: str | None,
        incident_id: str | None,
        ip_address: str | None,
    ) -> Request:
        request = self._requests.trip(reason, details, tripped_by, event_id, incident_id, ip_address)
        return replace(request, trailing_commands=self.durability.wait_command(self.timeout))

    def _read_trip(self, replies: Sequence[Any]) -> Status:
        status = read_transition_reply(replies[0], self.keys)
        return self._note(status.with_unconfirmed(self.durability.why_unconfirmed(replies[0][0], replies[1:])))

    def _reset_request(
        self,
        reset_by: str | None,
        reason: str | None,
        event_id: str | None,
        expected_incident_id: str | None,
        expected_epoch: int | None,
        ip_address: str | None,
    ) -> Request:
        return self._requests.reset(
            reset_by,
            reason,
            event_id,
            expected_incident_id,
            expected_epoch,
            ip_address,
            self.quiet_period,
            self.reset_interval,
        )

    def _epoch_of(self, replies: Sequence[Any]) -> int | None:
        return read_status_replies(replies, self.keys).epoch

    def _note(self, status: Status) -> Status:
        if status.epoch is not None and (self._seen is None or not is_older(status, self._seen)):
            self._seen = status
        return status

    def _judge(self, status: Status, seen: Status | None) -> Status:
        """`seen` is the newest known before the question was sent; the answer can't be older by rights."""
        return self._note(reject_older(status, seen))


class CircuitBreaker(_Core):
    """The circuit breaker of one scope.

    `redis` is a plain `redis.Redis`, however it is set up; the breaker opens connections of its own to the same server.
    `timeout`: seconds after which each call has ended. `quiet_period`: seconds of limited trading after a reset; 0 for
    none. `reset_interval`: seconds between two resets of any scope (runbook: one per minute). `source`: which way in
    this is, for the audit log. `durability`: how far a trip is followed; one that is not confirmed in time is a trip
    all the same, and the status says so in `unconfirmed`. Safe to share between threads, and to use after a fork.

    Transitions raise BreakerUnavailable if Redis gives no answer in time, RedisRefused if it won't, and InvalidInput
    before anything is sent. Reading the state never raises: what can't be read is UNKNOWN.
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
    ) -> None:
        super().__init__(scope, timeout, quiet_period, reset_interval, source, durability)
        self._client = DeadlineClient(redis, self.timeout)

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
        """Halt trading, from any state whatever. Returns the state after it.

        A breaker that is tripped already keeps the first trip's reason; this one counts, and is in history and outbox.
        `reason`: 1 to 200 characters. `details`: what JSON can hold, plus Decimal, UUID and times; at most 16 kB.
        `tripped_by`: `details["operator"]`, or else the login name. `event_id`: a UUID; giving the same one again
        changes nothing and returns the state as it is by then. `incident_id`: used if this trip begins an incident.
        """
        request = self._trip_request(reason, details, tripped_by, event_id, incident_id, ip_address)
        return self._read_trip(self._client.execute(request))

    def reset(
        self,
        reset_by: str | None = None,
        reason: str | None = None,
        *,
        event_id: str | None = None,
        expected_incident_id: str | None = None,
        expected_epoch: int | None = None,
        ip_address: str | None = None,
    ) -> Status:
        """Let trading resume, with a quiet period first. Returns the state after it.

        Raises NotTripped, ResetRateLimited, or StateConflict if the incident or epoch isn't the expected one. Without
        `expected_epoch` it is that of the state as it is when this is called: a trip that comes between call and reset,
        however long the network holds the reset back, is not undone.
        """
        by = time.monotonic() + self.timeout
        request = self._reset_request(reset_by, reason, event_id, expected_incident_id, expected_epoch, ip_address)
        if expected_epoch is None:
            epoch = self._epoch_of(self._client.execute(self._requests.state_before_reset(), by=by))
            request = self._reset_request(reset_by, reason, request.event_id, expected_incident_id, epoch, ip_address)
        return self._change(request, by)

    def end_quiet_period(self, *, expected_epoch: int, by: str | None = None, event_id: str | None = None) -> Status:
        """Go from QUIET_PERIOD to OPEN, unless any transition happened since `expected_epoch`: StateConflict then."""
        return self._change(self._requests.end_quiet_period(expected_epoch, by, event_id))

    def initialize_state(self, force: bool = False, by: str | None = None, *, event_id: str | None = None) -> Status:
        """Create the state OPEN where there is none; a valid one stays as it is.

        `force` also overwrites garbage, or an OPEN state, with a fresh one. Raises StateConflict for garbage without
        it, and with it for TRIPPED and a running quiet period, which only a reset and time may end.
        """
        return self._change(self._requests.initialize(force, by, event_id))

    def get_status(self) -> Status:
        """The state at this moment by Redis's clock. Never raises: UNKNOWN, with `problem`, if it can't be told."""
        seen = self._seen
        try:
            status = read_status_replies(self._client.execute(self._requests.status()), self.keys)
        except BreakerError as error:
            return unknown_status(str(error))
        return self._judge(status, seen)

    def get_state(self) -> State:
        return self.get_status().state

    def is_tripped(self) -> bool:
        """True for TRIPPED, and for UNKNOWN too: what can't be read is closed."""
        return self.get_status().is_tripped

    def get_history(self, limit: int = 10) -> list[TransitionEvent]:
        """The newest transitions, newest first; 1,000 are kept. Raises BreakerError if they can't be read."""
        return read_history_reply(self._client.execute(self._requests.history(limit))[0], self.keys)

    def close(self) -> None:
        """Close the breaker's own connections. It may be used again afterwards."""
        self._client.close()

    def _change(self, request: Request, by: float | None = None) -> Status:
        return self._note(read_transition_reply(self._client.execute(request, by=by)[0], self.keys))


class AsyncCircuitBreaker(_Core):
    """CircuitBreaker for asyncio, on a `redis.asyncio.Redis`. Same arguments, results and errors; see there."""

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
    ) -> None:
        super().__init__(scope, timeout, quiet_period, reset_interval, source, durability)
        self._client = AsyncDeadlineClient(redis, self.timeout)

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
        request = self._trip_request(reason, details, tripped_by, event_id, incident_id, ip_address)
        return self._read_trip(await self._client.execute(request))

    async def reset(
        self,
        reset_by: str | None = None,
        reason: str | None = None,
        *,
        event_id: str | None = None,
        expected_incident_id: str | None = None,
        expected_epoch: int | None = None,
        ip_address: str | None = None,
    ) -> Status:
        by = time.monotonic() + self.timeout
        request = self._reset_request(reset_by, reason, event_id, expected_incident_id, expected_epoch, ip_address)
        if expected_epoch is None:
            epoch = self._epoch_of(await self._client.execute(self._requests.state_before_reset(), by=by))
            request = self._reset_request(reset_by, reason, request.event_id, expected_incident_id, epoch, ip_address)
        return await self._change(request, by)

    async def end_quiet_period(
        self, *, expected_epoch: int, by: str | None = None, event_id: str | None = None
    ) -> Status:
        return await self._change(self._requests.end_quiet_period(expected_epoch, by, event_id))

    async def initialize_state(
        self, force: bool = False, by: str | None = None, *, event_id: str | None = None
    ) -> Status:
        return await self._change(self._requests.initialize(force, by, event_id))

    async def get_status(self) -> Status:
        seen = self._seen
        try:
            status = read_status_replies(await self._client.execute(self._requests.status()), self.keys)
        except BreakerError as error:
            return unknown_status(str(error))
        return self._judge(status, seen)

    async def get_state(self) -> State:
        return (await self.get_status()).state

    async def is_tripped(self) -> bool:
        return (await self.get_status()).is_tripped

    async def get_history(self, limit: int = 10) -> list[TransitionEvent]:
        return read_history_reply((await self._client.execute(self._requests.history(limit)))[0], self.keys)

    async def close(self) -> None:
        await self._client.close()

    async def _change(self, request: Request, by: float | None = None) -> Status:
        return self._note(read_transition_reply((await self._client.execute(request, by=by))[0], self.keys))
