"""Send a gate's reports from a thread beside its listener, so that no check and no heartbeat waits for them."""

from __future__ import annotations

import atexit
import logging
import os
import random
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from breaker.errors import BreakerError, one_line
from breaker.gate.report import REPORT_EVERY, GateReport, report_request
from breaker.requests import raise_if_error

if TYPE_CHECKING:
    import redis

_log = logging.getLogger(__name__)
_FIRST_REPORT_AFTER = 0.2
_REDIS_TIMEOUT = 1.0
_LAST_REPORT_TIMEOUT = 0.5
"""Seconds that closing a gate, or leaving the interpreter, waits for the gate's last report."""
LAST, NEXT = b"L", b"N"

Send: TypeAlias = Callable[[GateReport, bool], None]
"""Send a report, and whether it is the gate's last. Raises BreakerError or OSError."""


class Reporter:
    """Sends what `report` returns now and then, until stopped, and then once more. What can't be sent is dropped."""

    def __init__(self, report: Callable[[], GateReport], send: Send) -> None:
        self._report = report
        self._send = send
        self._stopping = threading.Event()
        self._pid = os.getpid()
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name="breaker-gate-report", daemon=True)

    def start(self) -> None:
        self._thread.start()
        # So that an engine that ends without closing its gate is not taken for one that was killed.
        atexit.register(self.stop)

    def stop(self) -> None:
        """Send the last report; waits for it half a second at most. In a forked child nothing: its parent goes on."""
        atexit.unregister(self.stop)
        if os.getpid() == self._pid:
            self._stopping.set()
            self._thread.join(0 if self._problem else _LAST_REPORT_TIMEOUT)

    def _run(self) -> None:
        pause = _FIRST_REPORT_AFTER
        while not self._stopping.wait(pause):
            self._try_to_send(last=False)
            pause = random.uniform(0.75, 1.25) * REPORT_EVERY  # noqa: S311 -- so that a fleet does not report as one
        self._try_to_send(last=True)

    def _try_to_send(self, *, last: bool) -> None:
        try:
            self._send(self._report(), last)
        except (BreakerError, OSError) as error:
            problem = one_line(error)
            if problem != self._problem:
                _log.info("The gate works, but could not report, so pages miss it or call it lost: %s", problem)
            self._problem = problem
        else:
            self._problem = ""


def redis_sender(source: redis.Redis | str) -> Send:
    """Sends reports to Redis, over a connection apart from the gate's own, each within a second."""
    client = None

    def send(report: GateReport, last: bool) -> None:
        nonlocal client
        from breaker.deadline_client import DeadlineClient  # noqa: PLC0415 -- redis costs 100 ms to import
        from breaker.redis_clients import open_redis  # noqa: PLC0415

        if client is None:
            client = DeadlineClient(open_redis(source) if isinstance(source, str) else source, _REDIS_TIMEOUT)
        (reply,) = client.execute(report_request(report, last=last))
        raise_if_error(reply)
        if last:
            client.close()

    return send


def sidecar_sender(shared_memory: Path) -> Send:
    """Sends reports to the sidecar that writes `shared_memory`, which passes them on (`breaker.gate.report_relay`)."""

    def send(report: GateReport, last: bool) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto((LAST if last else NEXT) + report.to_json().encode(), str(report_socket(shared_memory)))

    return send


def report_socket(shared_memory: Path) -> Path:
    """The socket beside the shared memory to which the gates that read it send their reports."""
    return shared_memory.with_name(f"{shared_memory.name}.reports")
