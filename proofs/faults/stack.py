"""Everything that a kill switch talks to, as real servers, each behind a proxy that can break the connection."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import psutil
import redis

from breaker import CircuitBreaker
from ledger.ledger import Ledger
from ledger.schema import upgrade
from proofs.fork_server import ForkServer
from proofs.proxy import FaultProxy
from sandbox.child_process import StartChild, spawn
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange
from sandbox.prefect_server import PrefectServer
from tests.helpers import eventually
from tests.ledger.servers import Postgres
from tests.tasks.web import Web

ROOT = Path(__file__).parents[2]
BOOK = "[book]\norders = 6\npositions = 4\n"
CONFIGURATION = """\
redis_url = "redis://127.0.0.1:{redis}/0"
redis_timeout = 0.5
state_dir = "{state}"
database_url = "postgresql://postgres@127.0.0.1:{postgres}/{database}"
[kill]
deadline = {deadline}
first_sweep_timeout = 1.0
poll_interval = 0.05
settle = 0.2
guard = 0.4
stuck_after = 8.0
escalate_after = 6.0
retry_backoff = 0.2
retry_backoff_max = 1.0
record_wait = 2.0
[accounts.PAPER]
base_url = "http://127.0.0.1:{exchange}"
key_id = "key"
secret_key = "secret"
request_timeout = 1.0
[notifications]
pagerduty = "key"
pagerduty_url = "http://127.0.0.1:{sink}/v2/enqueue"
timeout = 2.0
"""
CHANGES = {
    "redis": (b"EVALSHA",),
    "postgres": (b"COMMIT", b"ON CONFLICT"),
    "exchange": (b"DELETE ", b"POST "),
}
"""How requests that change something look on the wire: theirs are the answers worth losing."""
_TEMPLATE = "migrated"
_numbers = itertools.count()
_NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


class Stack:
    """Redis, PostgreSQL, a Prefect server, the paper exchange and a notification sink. A context manager.

    Use it from the thread that made it: the servers end with that thread. With a fork server, Prefect and the commands
    are started by that.
    """

    def __init__(self, directory: Path, fork_server: ForkServer | None = None) -> None:
        self.directory = directory
        self.redis = EmbeddedRedis(directory / "redis")
        self.postgres = Postgres(directory / "postgres" / "data")
        self.fork_server = fork_server
        start: StartChild = spawn if fork_server is None else fork_server.start_command
        self.prefect = PrefectServer(directory / "prefect", start=start)
        self.exchange = PaperExchange(parse(BOOK))
        self.sink = Web()
        self._stopped: list[int] = []
        self._full: list[int] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self.prefect.start()
            opened.callback(self.prefect.stop)
            opened.enter_context(self.redis)
            self.postgres.start()
            opened.callback(self.postgres.stop)
            opened.enter_context(self.exchange)
            opened.enter_context(self.sink)
            self._migrate(self.postgres.create_database(_TEMPLATE))
            self.prefect.wait()
            ports = {
                "redis": self.redis.port,
                "postgres": self.postgres.port,
                "prefect": self.prefect.port,
                "exchange": urlsplit(self.exchange.url).port or 0,
                "sink": self.sink.port,
            }
            self.proxies = {name: opened.enter_context(FaultProxy(("127.0.0.1", port))) for name, port in ports.items()}
            for name, words in CHANGES.items():
                self.proxies[name].losing = words
            self._open = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.heal()
        self._open.close()

    @contextlib.contextmanager
    def fresh(self, *, deadline: float) -> Iterator[Place]:
        """A full book, an OPEN breaker, an empty ledger and an empty state directory."""
        number = next(_numbers)
        place = Place(self, self.directory / f"cell-{number}", f"cell_{number}")
        place.state.mkdir(parents=True)
        client = redis.Redis(port=self.redis.port)
        CircuitBreaker(client).trip("REHEARSAL")  # so that Redis knows the script, as it does in real life
        client.flushall()
        CircuitBreaker(client).initialize_state()
        client.close()
        self.exchange.restart(parse(BOOK))
        self.sink.asked.clear()
        self.postgres.execute("postgres", f"CREATE DATABASE {place.database} TEMPLATE {_TEMPLATE}")
        place.configure(deadline)
        try:
            yield place
        finally:
            self.heal()
            self.postgres.drop_database(place.database)

    def stop(self, *pids: int) -> None:
        """SIGSTOP, until healed."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                self._stopped.append(pid)

    def fill_disk(self, *pids: int) -> None:
        """No file of these processes can grow until healed, as on a disk that is full; ones to come inherit it."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
                self._full.append(pid)

    def heal(self) -> None:
        """Everything runs and answers again."""
        for proxy in self.proxies.values():
            proxy.heal()
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        for pid in self._full:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, _NO_LIMIT)
        self._stopped, self._full = [], []
        self._heal_redis()
        self._heal_postgres()
        self._heal_prefect()

    def pids_of(self, server: str) -> list[int]:
        """The processes of a server, parents first."""
        if server == "redis":
            return [self.redis.pid] if self.redis.pid else []
        if server == "exchange":
            return [self.exchange.pid]
        if server == "prefect":
            return [self.prefect.pid] if self.prefect.pid else []
        found = [
            child
            for child in psutil.Process().children(recursive=True)
            if f"-D {self.postgres.directory}" in " ".join(_command_line(child))
        ]
        grown = [grandchild for child in found for grandchild in child.children(recursive=True)]
        return list(dict.fromkeys(process.pid for process in (*found, *grown)))

    def _heal_redis(self) -> None:
        self.redis.start()
        with contextlib.closing(redis.Redis(port=self.redis.port)) as client:
            client.config_set("maxmemory", 0)

    def _heal_postgres(self) -> None:
        def is_back() -> bool:
            if not (answers := self._postgres_answers()) and not self.pids_of("postgres"):
                self.postgres.stop()
                self.postgres.start()
            return answers

        eventually(is_back, "PostgreSQL did not come back", every=0.05)

    def _postgres_answers(self) -> bool:
        try:
            self.postgres.execute("postgres", "SELECT 1")
        except Exception:  # it is down, or it is recovering
            return False
        return True

    def _heal_prefect(self) -> None:
        if not self.pids_of("prefect"):
            self.prefect.stop()
            self.prefect.start()
        self.prefect.wait()

    def _migrate(self, dsn: str) -> None:
        with contextlib.closing(Ledger.connect(dsn, timeout=30)) as ledger:
            upgrade(ledger)


class Place:
    """Where one cell happens: its state directory, its ledger, its configuration."""

    def __init__(self, stack: Stack, directory: Path, database: str) -> None:
        self.stack = stack
        self.directory = directory
        self.state = directory / "state"
        self.database = database

    def configure(self, deadline: float) -> None:
        ports = {name: proxy.port for name, proxy in self.stack.proxies.items()}
        text = CONFIGURATION.format(**ports, state=self.state, database=self.database, deadline=deadline)
        (self.directory / "breaker.toml").write_text(text)

    @property
    def environment(self) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
        return {
            **kept,
            "BREAKER_CONFIG": str(self.directory / "breaker.toml"),
            "HOME": str(self.directory),
            "PREFECT_HOME": str(self.directory / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.stack.proxies['prefect'].port}/api",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
        }

    def make_read_only(self) -> None:
        for path in (self.state, *self.state.rglob("*")):
            path.chmod(0o500 if path.is_dir() else 0o400)

    def make_writable(self) -> None:
        for path in (self.state, *self.state.rglob("*")):
            path.chmod(0o700 if path.is_dir() else 0o600)

    @property
    def ledger_url(self) -> str:
        """Not through the proxy."""
        return self.stack.postgres.dsn(self.database)


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
