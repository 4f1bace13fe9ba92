"""Pass on the reports of a host's `shm` gates, which have no connection to Redis: the sidecar's part in reporting."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from dataclasses import replace
from pathlib import Path

from breaker.errors import BreakerError, one_line
from breaker.gate.report import MAX_REPORT_BYTES, GateReport
from breaker.gate.reporter import LAST, Send, report_socket

_log = logging.getLogger(__name__)
_WAKE_INTERVAL = 0.5


class ReportRelay:
    """Passes on the reports sent to the socket beside `shared_memory`, whose only writer this process must be.

    Only processes of this user and group can send any. A host on which the socket can't be made works without; its
    gates are then not seen. Whether they open only on a `compared` Redis is the sidecar's to know.
    """

    def __init__(self, shared_memory: Path, send: Send, *, compared: bool = False) -> None:
        self._path = report_socket(shared_memory)
        self._send = send
        self._compared = compared
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="breaker-gate-relay", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for a report that is being passed on, a second at most."""
        self._stopping.set()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto(b"", str(self._path))  # wakes it; without, it looks up by itself
        self._thread.join(2 * _WAKE_INTERVAL)
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            try:
                self._path.unlink(missing_ok=True)  # of a sidecar that was killed
                channel.bind(str(self._path))
                self._path.chmod(0o660)
            except OSError as error:
                _log.warning("No gate of this host can report, all work as ever: %s: %s", self._path, error)
                return
            channel.settimeout(_WAKE_INTERVAL)
            while not self._stopping.is_set():
                with contextlib.suppress(TimeoutError):
                    message = channel.recv(MAX_REPORT_BYTES + 1)
                    if message:
                        self._pass_on(message)

    def _pass_on(self, message: bytes) -> None:
        try:
            self._send(replace(GateReport.from_json(message[1:]), compared=self._compared), message[:1] == LAST)
        except (BreakerError, OSError, ValueError) as error:
            _log.info("A gate's report could not be passed on: %s", one_line(error))
