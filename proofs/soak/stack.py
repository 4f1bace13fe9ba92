"""The whole stack as processes of this machine, each of which can be killed and started again on its address.

Programs reach Redis, database and venue through proxies that can break the line; whoever judges them goes there
directly.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from redis import Redis

from breaker import CircuitBreaker
from configuration.login import login_name
from proofs.proxy import FaultProxy
from sandbox.child_process import free_port, spawn
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchange
from sandbox.prefect_server import PrefectServer
from tests.helpers import eventually
from tests.ledger.servers import Postgres

ROOT = Path(__file__).parents[2]
READY_WITHIN = 90.0
CONFIGURATION = """\
redis_url = "redis://127.0.0.1:{redis}/0"
database_url = "postgresql://postgres@127.0.0.1:{database}/soak"
state_dir = "{state}"
quiet_period = 1
[kill]
deadline = 60
poll_interval = 0.1
settle = 0.3
guard = 1
stuck_after = 15
record_wait = 5
[recovery]
two_person = false
watch = 4
watch_interval = 0.5
condition_deadline = 20
condition_interval = 1
# A machine that is busy with the soak itself is slow, which is no finding.
redis_latency = 2
database_latency = 2
[recovery.people]
"{person}" = ["APPROVE_RECOVERY", "RESET_CIRCUIT"]
[recovery.services.venue]
url = "{exchange}/_paper/report"
timeout = 10
slow_after = 5
[console]
port = {console}
metrics_port = {metrics}
[accounts.PAPER]
base_url = "http://127.0.0.1:{venue}"
key_id = "key"
secret_key = "secret"
"""


class Part(Protocol):
    """One long-lived process."""

    @property
    def pid(self) -> int | None: ...
    def start(self) -> Any: ...
    def kill(self) -> None:
        """At once, as a crash does."""

    def stop(self) -> None: ...


class Program:
    """A part of the product, started as its unit file starts it. When it is killed, so is all that it started."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, ready: Callable[[], bool]
    ) -> None:
        self._command = [sys.executable, "-m", *command]
        self._environment = environment
        self._log = log
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def exit_status(self) -> int | None:
        return self._process.poll() if self._process else None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = spawn(self._command, env=self._environment, output=log)
        eventually(
            lambda: self.pid is None or self._ready(),
            f"{self._command} is not ready",
            within=READY_WITHIN,
            every=0.05,
        )

    def kill(self) -> None:
        if self._process is not None:
            _end_tree(self._process, signal.SIGKILL)

    def stop(self) -> None:
        if self._process is not None:
            _end_tree(self._process, signal.SIGTERM)


def _end_tree(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        if how is signal.SIGTERM:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
        process.kill()
        for child in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.wait()


class _Postgres(Postgres):
    def kill(self) -> None:
        super().stop(signal.SIGKILL)


class _Prefect(PrefectServer):
    def kill(self) -> None:
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def start(self) -> _Prefect:
        super().start()
        self.wait()
        return self


class _Venue(PaperExchange):
    def kill(self) -> None:
        raise NotImplementedError("the venue judges everybody else")


class Stack:
    """Everything, started in order. `parts` are the long-lived processes by name, `lines` the proxies."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state_dir = home / "state"
        self.redis = EmbeddedRedis(home / "redis")
        self.database = _Postgres(home / "postgres")
        self.prefect = _Prefect(home / "prefect")
        self.venue = _Venue()
        self.parts: dict[str, Part] = {
            "redis": self.redis,
            "database": self.database,
            "prefect": self.prefect,
            "venue": self.venue,
        }
        self.lines: dict[str, FaultProxy] = {}
        self.environment: dict[str, str] = {}
        self.token = ""
        self.console_url = ""

    def start(self) -> None:
        self.redis.start()
        self.database.start()
        self.database.create_database("soak")
        self.venue.start()
        self.prefect.start()
        self.lines = {
            "redis": FaultProxy(("127.0.0.1", self.redis.port)),
            "database": FaultProxy(("127.0.0.1", self.database.port)),
            "venue": FaultProxy(("127.0.0.1", int(self.venue.url.rpartition(":")[2]))),
        }
        console, metrics = free_port(), free_port()
        self.console_url = f"http://127.0.0.1:{console}"
        configuration = self.home / "breaker.toml"
        configuration.write_text(
            CONFIGURATION.format(
                state=self.state_dir,
                person=login_name(),
                exchange=self.venue.url,
                console=console,
                metrics=metrics,
                **{name: line.port for name, line in self.lines.items()},
            )
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
        self.environment = {**kept, **self.prefect.environment, "BREAKER_CONFIG": str(configuration), "COLUMNS": "200"}
        self._said("audit", "upgrade")
        with self.direct_redis() as client:
            CircuitBreaker(client).initialize_state(by="soak")
        socket = self.state_dir / "standby.sock"
        ready: dict[str, tuple[list[str], Callable[[], bool]]] = {
            "serve": (["services.serve"], lambda: True),
            "standby": (["cli", "standby"], socket.exists),
            "console": (["cli", "console"], lambda: _answers(f"{self.console_url}/alive")),
            "exporter": (["cli", "metrics"], lambda: _answers(f"http://127.0.0.1:{metrics}/metrics")),
        }
        for name, (command, is_ready) in ready.items():
            program = Program(command, self.environment, self.home / f"{name}.log", is_ready)
            self.parts[name] = program
            program.start()
        self._said("user", "add", "ada", "--role", "admin")
        permissions = [f"--permission={word}" for word in ("VIEW_CIRCUIT", "TRIP_CIRCUIT", "KILL_SWITCH")]
        self.token = self._said("token", "create", "ada", "--label", "soak", *permissions).split()[0]

    def stop(self) -> None:
        """In the opposite order, so that each finds what it needs to end well."""
        for line in self.lines.values():
            line.heal()
        for part in reversed(self.parts.values()):
            part.stop()
        for line in self.lines.values():
            line.close()

    def cli(self, *arguments: str, timeout: float = 240.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def _said(self, *arguments: str) -> str:
        outcome = self.cli(*arguments)
        if outcome.returncode != 0:
            raise RuntimeError(f"breaker {' '.join(arguments)}: {outcome.stderr}")
        return outcome.stdout

    @contextlib.contextmanager
    def direct_redis(self) -> Iterator[Redis]:
        client = Redis.from_url(self.redis.url, socket_timeout=5)
        try:
            yield client
        finally:
            client.close()

    def left_running(self) -> list[str]:
        """Command lines of processes that still belong to this stack."""
        mine = str(self.home)
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                if process.pid != os.getpid() and (
                    any(mine in part for part in process.cmdline())
                    or process.environ().get("BREAKER_CONFIG", "").startswith(mine)
                ):
                    found.append(" ".join(process.cmdline())[:200])
        return found


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2):
            return True
    except (URLError, OSError):
        return False
