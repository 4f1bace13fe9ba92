"""Keep a gate lease_held_at from a thread that connects, sends heartbeats, reads replies and pushes, and reconnects.

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
from breaker.gate.connect import GateConnection, connector
from breaker.gate.decision import Reason
from breaker.gate.host_pending_trips import HostPendingTrips
from breaker.gate.judge import Halt, not_connected
from breaker.gate.lease import Lease
from breaker.gate.protocol import GateProtocol, ProtocolFailed

if TYPE_CHECKING:
    import redis

_log = logging.getLogger(__name__)
_CONNECT_TIMEOUT = 1.0
_CHUNK_BYTES = 65_536
_DRAIN_EVERY = 100e-6
_REREAD_WITHIN = 0.02
_BACKOFF_FIRST = 0.05
_BACKOFF_MAX = 1.0
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError)


class Listener:
    """Owns one connection. `publish` is called with each change of what is known, and must not block."""

    def __init__(
        self,
        connect: Callable[[], GateConnection],
        protocol: GateProtocol,
        publish: Callable[[Lease, Halt | None], None],
        *,
        heartbeat: float,
        drain: bool,
        host_pending_trips: HostPendingTrips | None = None,
    ) -> None:
        self._open_connection = connect
        self._protocol = protocol
        self._publish = publish
        self._heartbeat = heartbeat
        self._drain = drain
        self._host_pending_trips = host_pending_trips
        self.poll_every = _DRAIN_EVERY if drain else math.inf
        self._reconnect_after = max(1.0, 5 * protocol.lease.max_staleness)
        self._connection: GateConnection | None = None
        self._poller = select.poll()
        self._lock = threading.Lock()
        """Held while the protocol is changed; a check that finds it taken does not wait."""
        self._polled_at = 0.0
        self._received_at = 0.0
        self._wake = threading.Event()
        self._stopping = False
        self._connections = 0
        self._problem = "it has not connected yet"
        self._thread = threading.Thread(target=self._run, name="breaker-gate", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and disconnect; nothing is published afterwards. Waits for the thread, 5 seconds at most."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=5.0)
        with self._lock:
            self._disconnect("the gate was closed")

    def forked(self) -> Halt:
        """In a forked child: let go of the parent's connection without a word on it."""
        self._stopping = True
        # The parent's threads may have held these at the fork, and nobody here would ever let go of them.
        self._lock, self._wake = threading.Lock(), threading.Event()
        if self._connection is not None:
            self._connection.close()
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
        return None if self._thread.is_alive() else not_connected("its listener thread has ended")

    @property
    def connections(self) -> int:
        """How many times it has connected; more than one means that it has had to reconnect."""
        return self._connections

    @property
    def problem(self) -> str | None:
        """Why there is no connection, or why the last heartbeat did not count."""
        return self._problem if self._connection is None else self._protocol.why_unconfirmed

    def poll(self, now: float) -> None:
        """Take in what has arrived, if anything has, without waiting for anything. For the checks; never raises."""
        self._polled_at = now
        self._poll_once()

    def _poll_once(self) -> None:
        if self._connection is None or not self._lock.acquire(blocking=False):
            return
        try:
            if self._connection is not None and self._poller.poll(0):
                self._receive(self._connection)
        except Exception as error:
            self._disconnect(_message_of(error))
            self._wake.set()
        finally:
            self._lock.release()

    def _run(self) -> None:
        delay, reported = _BACKOFF_FIRST, ""
        while not self._stopping:
            connected_at = clock.now()
            try:
                connection = self._connect()
                if self._host_pending_trips is not None:
                    self._host_pending_trips.apply()  # no heartbeat has been sent yet, so there is no lease either
                self._keep_lease(connection)
            except Exception as error:
                with self._lock:
                    self._disconnect(_message_of(error))
            if self._stopping:
                return
            if self._problem != reported:
                reported = self._problem
                _log.warning("The gate lost Redis: %s. Only orders that reduce risk pass until it is back.", reported)
            delay = _BACKOFF_FIRST if self._received_at > connected_at else min(delay * 2, _BACKOFF_MAX)
            self._wake.clear()
            self._wake.wait(random.uniform(delay / 2, delay))  # noqa: S311 -- so that a fleet does not return as one

    def _connect(self) -> GateConnection:
        connection = self._open_connection()
        with self._lock:
            self._protocol.disconnected()
            handshake = self._protocol.handshake()
            self._poller = select.poll()
            self._poller.register(connection.socket, select.POLLIN)
            self._connection = connection
            self._connections += 1
        self._send(connection, handshake)
        return connection

    def _keep_lease(self, connection: GateConnection) -> None:
        """Until the connection is lost, which is raised or found by a check, or the gate is closed."""
        lease_held_at = next_heartbeat = clock.now()
        while not self._stopping and self._connection is connection:
            now = clock.now()
            if now < self._protocol.lease.deadline:
                lease_held_at = now
            elif now - lease_held_at > self._reconnect_after:
                # Silence, answers that come too late, or an old primary whose replicas have left it for another.
                raise ProtocolFailed(
                    self._protocol.why_unconfirmed or f"no answer in time for {self._reconnect_after:.1f} s"
                )
            if self._protocol.heartbeat_due:
                # Closed already, so it can wait until the whole fleet has taken in the push and is closed as well.
                self._protocol.heartbeat_due = False
                next_heartbeat = min(next_heartbeat, now + random.uniform(0, _REREAD_WITHIN))  # noqa: S311 -- no secret
            if now >= next_heartbeat:
                next_heartbeat = now + self._heartbeat
                self._send_heartbeat(connection)
            self._wait(connection, next_heartbeat - now)

    def _send_heartbeat(self, connection: GateConnection) -> None:
        if self._host_pending_trips is not None:
            self._host_pending_trips.raise_if_pending()
        with self._lock:
            request = self._protocol.heartbeat(clock.now())
        self._send(connection, request)

    def _send(self, connection: GateConnection, request: bytes) -> None:
        # A TLS object can't be read and written at once; a plain socket can, and a sender that waits for the
        # interpreter must not keep the checks from reading.
        with self._lock if connection.encrypted else contextlib.nullcontext():
            connection.socket.sendall(request)

    def _wait(self, connection: GateConnection, timeout: float) -> None:
        if not self._drain:
            if self._poller.poll(max(timeout, 0.0) * 1000):
                with self._lock:
                    self._receive(connection)
            return
        idle = self._heartbeat / 4
        self._wake.wait(min(max(timeout, 0.0), idle))
        self._wake.clear()
        # Only if no check has looked for a while: reading lets go of the interpreter with the lock held, and a busy
        # engine would not see a trip until this thread has had it back.
        if clock.now() - self._polled_at > idle:
            self._poll_once()

    def _receive(self, connection: GateConnection) -> None:
        """Read until nothing is left. Called with the lock held."""
        wanted = self._protocol.heartbeat_due
        while True:
            try:
                data = connection.socket.recv(_CHUNK_BYTES)
            except _WOULD_BLOCK:
                break
            if not data:
                raise ConnectionResetError("Redis closed the connection")
            self._received_at = clock.now()
            self._protocol.receive(data, self._received_at)
            self._publish(self._protocol.lease, self._unconfirmed())
            if len(data) < _CHUNK_BYTES and not connection.encrypted:
                break
        if self._protocol.heartbeat_due and not wanted:
            self._wake.set()

    def _unconfirmed(self) -> Halt | None:
        """Why Redis answers and the gate is closed all the same; None while what is known may be acted on."""
        why = self._protocol.why_unconfirmed
        if why is None or self._received_at < self._protocol.lease.deadline:
            return None
        return Halt(Reason.STALE, f"{why}. Until that is over, only orders that reduce risk pass. Look at Redis.")

    def _disconnect(self, problem: str) -> None:
        """Nothing is known from now on. Called with the lock held."""
        connection, self._connection = self._connection, None
        self._problem = problem
        self._protocol.disconnected()
        self._publish(self._protocol.lease, not_connected(problem))
        if connection is not None:
            connection.close()


def _message_of(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


def make_listener(
    source: redis.Redis | str,
    lease: Lease,
    publish: Callable[[Lease, Halt | None], None],
    *,
    heartbeat: float,
    drain: bool,
    pending_trips: Path | None = None,
    compared_only: bool = False,
) -> Listener:
    """A listener, not started yet, on a connection of its own to where `source` points.

    It never opens before the trips that wait in the directory `pending_trips` are made; with `compared_only` only on a
    Redis that was compared with the ledger.
    """
    gate_id = f"{os.getpid()}-{secrets.token_hex(4)}"
    connect = connector(source, _CONNECT_TIMEOUT, name=f"breaker-gate-{gate_id}")
    host_pending_trips = None if pending_trips is None else HostPendingTrips(pending_trips, source)
    protocol = GateProtocol(lease, gate_id, compared_only=compared_only)
    return Listener(connect, protocol, publish, heartbeat=heartbeat, drain=drain, host_pending_trips=host_pending_trips)
