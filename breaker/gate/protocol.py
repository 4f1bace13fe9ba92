"""Speak a gate's side of its one connection to Redis, without the connection: bytes in and out, a `Lease` in between.

Pushes and heartbeats share the connection, so they arrive in the order in which Redis executed them. The push
(`CLIENT TRACKING`, any writer, `redis-cli` too) makes a gate close within a millisecond; the heartbeat is what the
guarantee rests on, since a push can be lost together with everything else.

A heartbeat asks for a write too, of a key that is not there (`DEL`), which changes nothing. A Redis that refuses it
(NOREPLICAS, READONLY, MISCONF) would refuse a trip, and no gate stays open on one that nobody can halt.

Where only a Redis counts that was compared with the ledger, a heartbeat also asks whose history it has: a primary that
was a replica meanwhile has another, and nothing says so on a connection that outlives it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from breaker.gate.lease import (
    LatestSeen,
    Lease,
    StateReading,
    StoredState,
    connection_lost,
    heartbeat_confirmed,
    heartbeat_sent,
    invalidated,
    not_believed,
    states_read,
)
from breaker.gate.quiet_period import QuietPeriod
from breaker.gate.resp3 import ErrorReply, Frame, Parser, ProtocolError, Push
from breaker.keys import Keys
from breaker.redis_run import COMPARED_KEY, is_same_run, run_of
from breaker.redis_time import microseconds_of
from breaker.requests import encode_command
from breaker.state import State, read_status

_PREFIX = Keys.of().state
_GATE_KEY_LIFETIME_MS = 60_000


class ProtocolFailed(Exception):
    """Redis answered something that this connection can't go on from; the message says what and what to do."""


class GateProtocol:
    """Which replies are still to come, and what is known so far.

    Not safe for concurrent calls; whoever drives it holds a lock. `lease` is replaced, never changed.
    """

    def __init__(self, lease: Lease, gate_id: str, *, compared_only: bool = False) -> None:
        self.lease = lease
        self._compared_only = compared_only
        self._run = ""
        """The run of the Redis that answers, where it has been asked."""
        self._is_compared = not compared_only
        self.heartbeat_due = False
        """An invalidation has arrived: the states should be read again at once."""
        self.why_unconfirmed: str | None = None
        """Why the newest heartbeat did not renew the lease, though it was answered."""
        self._gate_key = f"circuit_breaker:gate:{gate_id}"
        self._parser = Parser()
        self._pending_replies: deque[Callable[[Frame, float], None]] = deque()
        self._state_keys = [Keys.of(view.scope).state for view in lease.views]
        self._watched = frozenset(key.encode() for key in self._state_keys)
        self._redis_time = 0
        self._states_read: list[StateReading] = []
        self._refusal: str | None = None
        """Why the heartbeat that is being answered may not write."""

    def handshake(self) -> bytes:
        """The first bytes on a connection that speaks RESP3 already."""
        commands = [self._command(self._on_tracking, "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", _PREFIX)]
        commands.append(self._command(self._on_role, "ROLE"))
        for index, view in enumerate(self.lease.views):
            commands.append(self._command(self._on_exists(index), "EXISTS", Keys.of(view.scope).history))
        return b"".join(commands)

    def heartbeat(self, now: float) -> bytes:
        """The bytes of one heartbeat; `now` is read before they are sent."""
        self.heartbeat_due = False
        self.lease = heartbeat_sent(self.lease, now)
        commands = []
        if self.lease.replicas:
            commands.append(
                self._command(self._on_set, "SET", self._gate_key, f"{now:.6f}", "PX", _GATE_KEY_LIFETIME_MS)
            )
        else:
            commands.append(self._command(self._on_delete, "DEL", self._gate_key))
        # Asked before the states, which then have what the comparison made of them.
        if self._compared_only and self._is_compared:
            commands.append(self._command(self._on_replication, "INFO", "replication"))
        elif self._compared_only:
            commands.append(self._command(self._on_info, "INFO"))
            commands.append(self._command(self._on_compared, "GET", COMPARED_KEY))
        commands.append(self._command(self._on_time, "TIME"))
        commands.extend(self._command(self._on_state, "GET", key) for key in self._state_keys)
        if self.lease.replicas:
            timeout_ms = max(1, int(self.lease.max_staleness * 1000))
            commands.append(self._command(self._on_wait, "WAIT", self.lease.replicas, timeout_ms))
        return b"".join(commands)

    def receive(self, data: bytes, now: float) -> None:
        """Take in what has arrived. Raises `ProtocolFailed`; then the connection must be closed."""
        try:
            for frame in self._parser.feed(data):
                if isinstance(frame, Push):
                    self._on_push(frame)
                elif self._pending_replies:
                    self._pending_replies.popleft()(frame, now)
                else:
                    raise ProtocolFailed("Redis answered something that was not asked; connecting again.")
        except ProtocolError as error:
            raise ProtocolFailed(f"What answers there is not Redis with RESP3 ({error}).") from error

    def disconnected(self) -> None:
        """The connection is gone, and every answer with it."""
        self._parser = Parser()
        self._pending_replies.clear()
        self._states_read.clear()
        self._refusal = None
        self._run, self._is_compared = "", not self._compared_only
        self.heartbeat_due = False
        self.why_unconfirmed = None
        self.lease = connection_lost(self.lease)

    def _command(self, on_reply: Callable[[Frame, float], None], *words: str | int) -> bytes:
        self._pending_replies.append(on_reply)
        return encode_command(*words)

    def _on_push(self, push: Push) -> None:
        if push.kind != b"invalidate":
            return
        keys = push.content[0] if push.content else None
        if not isinstance(keys, list) or any(key in self._watched for key in keys if isinstance(key, bytes)):
            self.lease = invalidated(self.lease)
            self.heartbeat_due = True

    def _on_tracking(self, frame: Frame, now: float) -> None:
        _refuse_error(frame, "CLIENT TRACKING")

    def _on_role(self, frame: Frame, now: float) -> None:
        _refuse_error(frame, "ROLE")
        role = frame[0] if isinstance(frame, list) and frame else None
        if role != b"master":
            raise ProtocolFailed(f"This Redis is a {_text(role)}, not a primary; give the gate the primary's address.")

    def _on_info(self, frame: Frame, now: float) -> None:
        _refuse_error(frame, "INFO")
        self._run = run_of(frame)

    def _on_replication(self, frame: Frame, now: float) -> None:
        _refuse_error(frame, "INFO")
        self._is_compared = is_same_run(self._run, frame)

    def _on_compared(self, frame: Frame, now: float) -> None:
        _refuse_error(frame, "GET")
        self._is_compared = bool(self._run) and frame == self._run.encode()

    def _on_exists(self, index: int) -> Callable[[Frame, float], None]:
        def on_reply(frame: Frame, now: float) -> None:
            _refuse_error(frame, "EXISTS")
            views = list(self.lease.views)
            if frame == 1 and views[index].latest_seen is None:
                views[index] = replace(views[index], latest_seen=LatestSeen(-1, halted=True))
                self.lease = replace(self.lease, views=tuple(views))

        return on_reply

    def _on_set(self, frame: Frame, now: float) -> None:
        _refuse_error(frame, "SET")

    def _on_delete(self, frame: Frame, now: float) -> None:
        if isinstance(frame, ErrorReply) and frame.code == "NOPERM":
            _refuse_error(frame, "DEL")
        self._refusal = frame.message if isinstance(frame, ErrorReply) else None

    def _on_time(self, frame: Frame, now: float) -> None:
        _refuse_error(frame, "TIME")
        if not (isinstance(frame, list) and len(frame) == 2):
            raise ProtocolFailed(f"Redis answered TIME with {frame!r:.60}; connecting again.")
        self._redis_time = microseconds_of(frame)

    def _on_state(self, frame: Frame, now: float) -> None:
        if isinstance(frame, ErrorReply) and frame.code != "WRONGTYPE":
            _refuse_error(frame, "GET")
        if not (frame is None or isinstance(frame, bytes | ErrorReply)):
            raise ProtocolFailed(f"Redis answered GET with {frame!r:.60}; connecting again.")
        key = self._state_keys[len(self._states_read)]
        self._states_read.append(read_state(frame, self._redis_time, now, key=key))
        if len(self._states_read) == len(self.lease.views):
            self.lease = states_read(self.lease, tuple(self._states_read))
            self._states_read.clear()
            if not self.lease.replicas:
                self._end_heartbeat(0)

    def _on_wait(self, frame: Frame, now: float) -> None:
        _refuse_error(frame, "WAIT")
        self._end_heartbeat(frame if isinstance(frame, int) else 0)

    def _end_heartbeat(self, confirmed: int) -> None:
        self.why_unconfirmed = self._why_not_believed
        if self.why_unconfirmed is not None:
            self.lease = not_believed(self.lease)
            return
        if confirmed < self.lease.replicas:
            self.why_unconfirmed = f"only {confirmed} of the {self.lease.replicas} replicas confirm what Redis says"
        self.lease = heartbeat_confirmed(self.lease, confirmed)

    @property
    def _why_not_believed(self) -> str | None:
        if self._refusal is not None:
            return f"Redis refuses to write, and so would refuse a trip: {self._refusal.rstrip('.')}"
        if not self._is_compared:
            if not self._run:
                return "this Redis doesn't tell in INFO which run of it answers, without which none counts as compared"
            return (
                "this Redis has not been compared with the ledger since it began to answer, which `services.serve` or "
                "`breaker services` does"
            )
        return None


def _refuse_error(frame: Frame, command_name: str) -> None:
    if isinstance(frame, ErrorReply):
        raise ProtocolFailed(f"Redis refused {command_name}: {frame.message}")


def _text(frame: Frame) -> str:
    return frame.decode(errors="replace") if isinstance(frame, bytes) else str(frame)


def read_state(raw: bytes | ErrorReply | None, redis_time: int, now: float, *, key: str) -> StateReading:
    """What a scope's key says, as Redis holds it. Everything that is not understood is UNREADABLE.

    `raw` is the key's value, None when it is missing, the error when it holds another type. `redis_time` is Redis's own
    clock in Unix microseconds, read just before; `now` is the gate's. Together they place the end of a quiet period on
    the gate's clock, so that no host's wall clock matters.
    """
    if isinstance(raw, ErrorReply):
        return StateReading(StoredState.UNREADABLE, problem=f"{key} is not a string")
    status = read_status(raw, redis_time, key=key)
    if status.state is State.UNKNOWN:
        return StateReading(StoredState.MISSING if raw is None else StoredState.UNREADABLE, problem=status.problem)
    quiet_period = None
    if status.state is State.QUIET_PERIOD and status.quiet_until is not None:
        left = status.quiet_until.timestamp() - redis_time / 1e6
        length = None if status.reset_at is None else (status.quiet_until - status.reset_at).total_seconds()
        quiet_period = QuietPeriod(ends=now + left, length=length)
    return StateReading(StoredState(status.state), status.epoch, status.trip_reason, quiet_period)
