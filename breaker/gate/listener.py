"""The thread that keeps a gate informed: connects, sends heartbeats, takes in answers and pushes, connects again.

As `thread` it waits on the socket and takes in what comes. As `drain` it leaves the reading to the checks, which look
at the socket themselves while orders flow, and only steps in when none do: a busy interpreter then can't delay a
trip, which the GIL otherwise does by 5 to 10 ms.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import secrets
import select
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from breaker.gate import clock
from breaker.gate.connect import Line, connector
from breaker.gate.decision import Reason
from breaker.gate.host_pending_trips import HostPendingTrips
from breaker.gate.judge import Halt
from breaker.gate.lease import Lease
from breaker.gate.protocol import GateProtocol, ProtocolFailed

if TYPE_CHECKING:
    import redis

_log = logging.getLogger(__name__)
_CONNECT_TIMEOUT = 1.0
_CHUNK = 65_536
_DRAIN_EVERY = 100e-6
_READ_AGAIN_WITHIN = 0.02
_BACKOFF_FIRST = 0.05
_BACKOFF_MOST = 1.0
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError)


class Listener:
    """Owns one connection. `publish` is called with each change of what is known, and must not block."""

    def __init__(
        self,
        dial: Callable[[], Line],
        protocol: GateProtocol,
        publish: Callable[[Lease, Halt | None], None],
        *,
        heartbeat: float,
        drain: bool,
        host_pending_trips: HostPendingTrips | None = None,
    ) -> None:
        self._dial = dial
        self._protocol = protocol
        self._publish = publish
        self._heartbeat = heartbeat
        self._drain = drain
        self._host_trips = host_pending_trips
        self.poll_every = _DRAIN_EVERY if drain else math.inf
        self._patience = max(1.0, 5 * protocol.lease.max_staleness)
        self._line: Line | None = None
        self._poller = select.poll()
        self._turn = threading.Lock()
        """Held while the protocol is changed; a check that finds it taken does not wait."""
        self._polled_at = 0.0
        self._heard_at = 0.0
        self._wake = threading.Event()
        self._stopping = False
        self._connections = 0
        self._problem = "it has not connected yet"
        self._thread = threading.Thread(target=self._run, name="breaker-gate", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and hang up; nothing is published afterwards. Waits for the thread, a few seconds at most."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=5.0)
        with self._turn:
            self._hang_up("the gate was closed")

    def forked(self) -> Halt:
        """In a forked child: let go of the parent's connection without a word on it."""
        self._stopping = True
        # The parent's threads may have held these at the fork, and nobody here would ever let go of them.
        self._turn, self._wake = threading.Lock(), threading.Event()
        if self._line is not None:
            self._line.close()
        return Halt(
            Reason.FORKED,
            "This process was forked from the gate's, whose connection stays with the parent; only orders that reduce "
            "risk pass. Call gate.restart() after the fork, or use the shm backend.",
        )

    def refresh(self) -> None:
        """What is published is always the newest known."""

    @property
    def halt(self) -> Halt | None:
        """Set when the thread is gone and so nothing will ever open the gate again."""
        return None if self._thread.is_alive() else _not_connected("its listener thread has ended")

    @property
    def connections(self) -> int:
        """How many times it has connected; more than one means that it has had to reconnect."""
        return self._connections

    @property
    def problem(self) -> str | None:
        """Why there is no connection, or why the last heartbeat did not count."""
        return self._problem if self._line is None else self._protocol.why_unconfirmed

    def poll(self, now: float) -> None:
        """Take in what has arrived, if anything has, without waiting for anything. For the checks; never raises."""
        self._polled_at = now
        self._look()

    def _look(self) -> None:
        if self._line is None or not self._turn.acquire(blocking=False):
            return
        try:
            if self._line is not None and self._poller.poll(0):
                self._take_in(self._line)
        except Exception as error:
            self._hang_up(_told(error))
            self._wake.set()
        finally:
            self._turn.release()

    def _run(self) -> None:
        delay, reported = _BACKOFF_FIRST, ""
        while not self._stopping:
            connected_at = clock.now()
            try:
                line = self._connect()
                if self._host_trips is not None:
                    self._host_trips.make()  # no heartbeat has been sent yet, so there is no lease either
                self._converse(line)
            except Exception as error:
                with self._turn:
                    self._hang_up(_told(error))
            if self._stopping:
                return
            if self._problem != reported:
                reported = self._problem
                _log.warning("The gate lost Redis: %s. Only orders that reduce risk pass until it is back.", reported)
            delay = _BACKOFF_FIRST if self._heard_at > connected_at else min(delay * 2, _BACKOFF_MOST)
            self._wake.clear()
            self._wake.wait(random.uniform(delay / 2, delay))  # noqa: S311 -- so that a fleet does not return as one

    def _connect(self) -> Line:
        line = self._dial()
        with self._turn:
            self._protocol.ended()
            opening = self._protocol.opening()
            self._poller = select.poll()
            self._poller.register(line.socket, select.POLLIN)
            self._line = line
            self._connections += 1
        self._send(line, opening)
        return line

    def _converse(self, line: Line) -> None:
        """Until the line is lost, which is raised or found by a check, or the gate is closed."""
        informed = next_beat = clock.now()
        while not self._stopping and self._line is line:
            now = clock.now()
            if now < self._protocol.lease.deadline:
                informed = now
            elif now - informed > self._patience:
                # Silence, answers that come too late, or an old primary whose replicas have left it for another.
                raise ProtocolFailed(self._protocol.why_unconfirmed or f"no answer in time for {self._patience:.1f} s")
            if self._protocol.heartbeat_due:
                # Closed already, so it can wait until the whole fleet has taken in the push and is closed as well.
                self._protocol.heartbeat_due = False
                next_beat = min(next_beat, now + random.uniform(0, _READ_AGAIN_WITHIN))  # noqa: S311 -- no secret
            if now >= next_beat:
                next_beat = now + self._heartbeat
                self._beat(line)
            self._wait(line, next_beat - now)

    def _beat(self, line: Line) -> None:
        if self._host_trips is not None:
            self._host_trips.raise_if_pending()
        with self._turn:
            request = self._protocol.heartbeat(clock.now())
        self._send(line, request)

    def _send(self, line: Line, request: bytes) -> None:
        # A TLS object can't be read and written at once; a plain socket can, and a sender that waits for the
        # interpreter must not keep the checks from reading.
        with self._turn if line.encrypted else contextlib.nullcontext():
            line.socket.sendall(request)

    def _wait(self, line: Line, longest: float) -> None:
        if not self._drain:
            if self._poller.poll(max(longest, 0.0) * 1000):
                with self._turn:
                    self._take_in(line)
            return
        idle = self._heartbeat / 4
        self._wake.wait(min(max(longest, 0.0), idle))
        self._wake.clear()
        # Only if no check has looked for a while: reading lets go of the interpreter with the turn held, and a busy
        # engine would not see a trip until this thread has had it back.
        if clock.now() - self._polled_at > idle:
            self._look()

    def _take_in(self, line: Line) -> None:
        """Read until nothing is left. Called with the turn held."""
        wanted = self._protocol.heartbeat_due
        while True:
            try:
                data = line.socket.recv(_CHUNK)
            except _WOULD_BLOCK:
                break
            if not data:
                raise ConnectionResetError("Redis closed the connection")
            self._heard_at = clock.now()
            self._protocol.receive(data, self._heard_at)
            self._publish(self._protocol.lease, None)
            if len(data) < _CHUNK and not line.encrypted:
                break
        if self._protocol.heartbeat_due and not wanted:
            self._wake.set()

    def _hang_up(self, problem: str) -> None:
        """Nothing is known from now on. Called with the turn held."""
        line, self._line = self._line, None
        self._problem = problem
        self._protocol.ended()
        self._publish(self._protocol.lease, _not_connected(problem))
        if line is not None:
            line.close()


def _not_connected(problem: str) -> Halt:
    sentence = (
        f"The gate has no connection to Redis ({problem}); it goes on trying, and only orders that reduce risk pass."
    )
    return Halt(Reason.NOT_CONNECTED, sentence)


def _told(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


def listen(
    source: redis.Redis | str,
    lease: Lease,
    publish: Callable[[Lease, Halt | None], None],
    *,
    heartbeat: float,
    drain: bool,
    pending_trips: Path | None = None,
) -> Listener:
    """A listener, not started yet, on a connection of its own to where `source` points.

    It never opens before the trips that wait in the directory `pending_trips` are made.
    """
    gate_id = f"{os.getpid()}-{secrets.token_hex(4)}"
    dial = connector(source, _CONNECT_TIMEOUT, name=f"breaker-gate-{gate_id}")
    host_pending_trips = None if pending_trips is None else HostPendingTrips(pending_trips, source)
    protocol = GateProtocol(lease, gate_id)
    return Listener(dial, protocol, publish, heartbeat=heartbeat, drain=drain, host_pending_trips=host_pending_trips)
