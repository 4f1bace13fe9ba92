"""Run a Prefect server with its UI as a child process, on a home of its own, for the demo, `make up` and tests."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from breaker.errors import BreakerError
from sandbox.child_process import Child, StartChild, end, free_port, spawn

START_LIMIT = 60.0
"""Seconds; a new SQLite database alone takes most of ten on a small machine."""
STOP_LIMIT = 5.0
RETENTION = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(30 * 24 * 3_600),
}
"""Runs that ended a month ago go, with their logs and artifacts: 1,440 verifications a day would grow for ever. What
people did is in the ledger."""


class PrefectServerError(BreakerError):
    """The Prefect server can't be started."""


class PrefectServer:
    """One server at `host`, the loopback interface unless given; `home` keeps its database and its log.

    `environment` is what a process needs to use it: its API's address and its home. `start` starts its process.
    """

    def __init__(
        self, home: Path, *, port: int | None = None, start: StartChild = spawn, host: str = "127.0.0.1"
    ) -> None:
        self.home = home
        self.host = host
        self.port = port or free_port()
        self._start = start
        self._process: Child | None = None

    @property
    def api_url(self) -> str:
        return f"http://{self.host}:{self.port}/api"

    @property
    def ui_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }

    def start(self) -> Self:
        """Start it without waiting until it answers: `wait` does that. Raises PrefectServerError."""
        if importlib.util.find_spec("prefect") is None:
            raise PrefectServerError("Prefect is not installed. Run: pip install trading-breaker-ops.")
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
        command += [
            "--host",
            self.host,
            "--port",
            str(self.port),
            "--timeout-keep-alive",
            "5",
            "--log-level",
            "warning",
        ]
        # The UI calls the address that these two name; they follow no command-line option.
        address = {"PREFECT_SERVER_API_HOST": self.host, "PREFECT_SERVER_API_PORT": str(self.port)}
        quiet = {"PREFECT_SERVER_LOGGING_LEVEL": "WARNING", "PREFECT_LOGGING_LEVEL": "WARNING"}
        ours = {**self.environment, **RETENTION, **address, **quiet}
        with self._log_file.open("ab") as log:
            self._process = self._start(command, env={**os.environ, **ours}, output=log)
        return self

    def wait(self) -> None:
        """Return once it answers. Raises PrefectServerError when it ends or takes too long."""
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise PrefectServerError(f"The Prefect server ended at its start; see {self._log_file}.")
            if self._answers():
                return
            time.sleep(0.05)
        raise PrefectServerError(f"The Prefect server did not answer within {START_LIMIT:g} s; see {self._log_file}.")

    def stop(self) -> None:
        """Stop it in order; kill it when that takes too long. Doing so twice is fine."""
        process, self._process = self._process, None
        if process is not None:
            end(process, within=STOP_LIMIT)

    def __enter__(self) -> Self:
        self.start()
        self.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def _log_file(self) -> Path:
        return self.home / "server.log"

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.api_url}/health", timeout=1) as response:  # noqa: S310  our own
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False
