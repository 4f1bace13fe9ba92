"""Where commands die and are started again: real servers, a small book, and hosts with a state directory each."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import redis

from breaker import CircuitBreaker
from breaker.keys import Keys
from breaker.pending_trips import PendingTrip, PendingTrips
from configuration.login import login_name
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.record import COLUMNS, AuditRecord
from ledger.schema import upgrade
from ledger.spool import Spool
from ledger.verify import verify
from proofs.crash_points.boundary import Death, Point, read_points
from proofs.crash_points.exposure import CLOSE_TAKES
from proofs.crash_points.forks import Ended, Forks, Order
from proofs.crash_points.procedures import Database, Procedure
from proofs.crash_points.verdict import Evidence
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange
from tests.ledger.servers import Postgres

BOOK = """\
enforce_available = false
rate_limit = 100000
positions = [{symbol = "AAPL", qty = "10"}, {symbol = "MSFT", qty = "-5"}, {symbol = "NVDA", qty = "7.5"}]
orders = [
  {symbol = "AAPL", side = "sell", qty = "4", limit_price = "900"},
  {symbol = "MSFT", side = "sell", qty = "2", limit_price = "900"},
  {symbol = "NVDA", side = "buy", qty = "1", limit_price = "1"},
  {symbol = "TSLA", side = "buy", qty = "3", limit_price = "1"},
]
[fills]
delay = 0.1
"""
"""`enforce_available = false`: the venue catches no close that is too large, so that each one is seen."""
PROTECTED_BOOK = f"""\
rate_limit = 100000
positions = [{{symbol = "AAPL", qty = "10"}}, {{symbol = "MSFT", qty = "-5"}}, {{symbol = "NVDA", qty = "7.5"}}]
orders = [
  {{symbol = "AAPL", side = "sell", qty = "10", type = "stop", stop_price = "1"}},
  {{symbol = "MSFT", side = "buy", qty = "5", type = "stop", stop_price = "9000"}},
  {{symbol = "NVDA", side = "sell", qty = "7.5", type = "stop", stop_price = "1"}},
  {{symbol = "NVDA", side = "buy", qty = "1", limit_price = "1"}},
  {{symbol = "TSLA", side = "buy", qty = "3", limit_price = "1"}},
]
[fills]
delay = {CLOSE_TAKES}
[cancels]
delay = 0.02
"""
"""Here the venue refuses a close of what a stop holds, as real ones do: the stop has to go before the close comes."""
CONFIGURATION = """\
redis_url = "redis://127.0.0.1:{redis}/0"
redis_timeout = {redis_timeout}
state_dir = "{state}"
{database}
[kill]
deadline = 30.0
poll_interval = 0.03
settle = 0.05
guard = 0.1
stuck_after = 15.0
escalate_after = 8.0
orchestrator_wait = {orchestrator_wait}
record_wait = 0.1
[accounts.PAPER]
base_url = "{exchange}"
key_id = "key"
secret_key = "secret"
request_timeout = 2.0
[recovery]
two_person = false
watch = 0.3
watch_interval = 0.1
[recovery.people]
"{login}" = ["RESET_CIRCUIT", "APPROVE_RECOVERY"]
"""
LAST_RESORT_PACE = {
    "deadline": 30,
    "poll_interval": 0.03,
    "settle": 0.05,
    "guard": 0.1,
    "escalate_after": 8,
    "position_lag": 0.3,
}
KEYS = Keys.of()
_migrating = threading.Lock()
"""Alembic keeps what it works on in its modules."""


@dataclass(frozen=True, slots=True)
class Run:
    ended: Ended
    points: Sequence[Point]
    """In the order in which they were crossed, the one that it died at included."""


class CrashEnvironment:
    """The servers, started once; each case begins with everything on them new. Not for several threads at once."""

    def __init__(self, directory: Path, *, prefect_url: str | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._numbers = itertools.count()
        self._stack = contextlib.ExitStack()
        self.redis = self._stack.enter_context(EmbeddedRedis(directory / "redis"))
        self.exchange = self._stack.enter_context(PaperExchange())
        self.client = self._stack.enter_context(redis.Redis.from_url(self.redis.url))
        self.nowhere = free_port()
        self._prefect_url = prefect_url
        self.forks = self._stack.enter_context(Forks(self._environment()))
        self._postgres: Postgres | None = None
        self.ready_file = directory / "ready.db"
        _make_ready(f"sqlite:///{self.ready_file}")

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def case(self, procedure: Procedure) -> Iterator[Case]:
        """A fresh book, breaker and ledger for this procedure, and its first host."""
        directory = self._directory / f"case_{next(self._numbers)}"
        directory.mkdir()
        try:
            with contextlib.ExitStack() as stack:
                yield Case(self, procedure, directory, stack)
        finally:
            shutil.rmtree(directory)

    @property
    def postgres(self) -> Postgres:
        """Started at its first use, with a migrated database `ready` to copy."""
        if self._postgres is None:
            (self._directory / "postgres").mkdir()
            self._postgres = Postgres(self._directory / "postgres" / "data")
            self._postgres.start()
            self._stack.callback(self._postgres.stop)
            _make_ready(self._postgres.create_database("ready"))
        return self._postgres

    def orchestrator(self, up: bool) -> str:
        """The address of its API, or one that refuses."""
        if not up:
            return f"http://127.0.0.1:{self.nowhere}/api"
        assert self._prefect_url is not None, "this environment has no orchestrator"
        return self._prefect_url

    @property
    def exchange_time(self) -> float:
        """Seconds on the exchange's clock."""
        return float(self.exchange.report()["now"])

    @property
    def peers(self) -> Mapping[int, str]:
        peers = {self.redis.port: "Redis", _port_of(self.exchange.url): "venue"}
        return peers | ({_port_of(self._prefect_url): "Prefect"} if self._prefect_url else {})

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
        return {
            **kept,
            "HOME": str(self._directory),
            "PREFECT_HOME": str(self._directory / "prefect"),
            "PREFECT_API_URL": self.orchestrator(up=False),
            "COLUMNS": "160",
        }


class Case:
    """One procedure in an environment of its own: run it, let it die, run it again, and gather how things stand."""

    def __init__(
        self, environment: CrashEnvironment, procedure: Procedure, directory: Path, stack: contextlib.ExitStack
    ) -> None:
        self._environment = environment
        self._procedure = procedure
        self._directory = directory
        self._numbers = itertools.count()
        environment.exchange.restart(parse(PROTECTED_BOOK if procedure.protected else BOOK))
        environment.client.flushall()
        self._host = self._new_host()
        self._database = self._new_database(stack)
        with contextlib.closing(CircuitBreaker(environment.client, source="cli")) as breaker:
            breaker.initialize_state()
            if procedure.tripped_before:
                breaker.trip("MANUAL", tripped_by="grace")
        if procedure.pending_before:
            PendingTrips(self._pending).save(PendingTrip(reason="KILL_SWITCH", tripped_by="grace", source="cli"))
        if procedure.arguments[0] == "audit":
            Spool(self._spool).add([AuditRecord(action="ORDERS_CANCELED", source="cli") for _ in range(3)])

    def run(self, death: Death | None = None) -> Run:
        """The procedure, as an operator starts it on the host."""
        procedure = self._procedure
        last = [str(self._credentials())] if procedure.last_resort else []
        redis_port = self._environment.redis.port if procedure.redis_up else self._environment.nowhere
        return self._execute([*last, *procedure.arguments], redis_port, death, last_resort=procedure.last_resort)

    def lose_host(self) -> None:
        """Its disk is gone; from here on there is another one."""
        shutil.rmtree(self._host)
        self._host = self._new_host()

    def kept(self) -> frozenset[str]:
        """Ids of everything that is on record somewhere now."""
        spooled = {record.id for record in Spool(self._spool).records()}
        outbox = {
            json.loads(fields[b"event"])["event_id"] for _, fields in self._environment.client.xrange(KEYS.outbox)
        }
        return frozenset(spooled | outbox | {row["id"] for row in self._rows()[0]})

    def evidence(self, kept: frozenset[str]) -> Evidence:
        """What is the case now; what waits is drained before, unless the procedure had to do that."""
        if not self._procedure.records_itself:
            self._execute(["audit", "drain"], self._environment.redis.port, None)
        history = [json.loads(member) for member in self._environment.client.zrange(KEYS.history, 0, -1)]
        rows, chain = self._rows()
        waiting = self._environment.client.xlen(KEYS.outbox) + len(Spool(self._spool).records())
        return Evidence(
            venue=self._environment.exchange.report(),
            state=json.loads(self._environment.client.get(KEYS.state) or b"{}").get("state", "MISSING"),
            transitions=sorted(history, key=lambda event: event["epoch"]),
            rows=rows,
            chain=chain,
            waiting=waiting + len(PendingTrips(self._pending).load()),
            kept=kept,
        )

    @property
    def _state(self) -> Path:
        return self._host / "state"

    @property
    def _spool(self) -> Path:
        return self._state / "spool"

    @property
    def _pending(self) -> Path:
        return self._state / "pending_trips"

    def _new_host(self) -> Path:
        host = self._directory / f"host_{next(self._numbers)}"
        (host / "state").mkdir(parents=True)
        return host

    def _new_database(self, stack: contextlib.ExitStack) -> str | None:
        """Its URL if it is apart from the host."""
        if self._procedure.database is Database.READY:
            shutil.copy(self._environment.ready_file, self._state / "audit.db")
        if self._procedure.database is not Database.APART:
            return None
        name, postgres = self._directory.name, self._environment.postgres
        postgres.execute("postgres", f"CREATE DATABASE {name} TEMPLATE ready")
        stack.callback(partial(postgres.drop_database, name))
        return postgres.dsn(name)

    def _execute(
        self, arguments: Sequence[str], redis_port: int, death: Death | None, *, last_resort: bool = False
    ) -> Run:
        number = next(self._numbers)
        configuration, journal = self._host / "breaker.toml", self._directory / f"journal_{number}"
        configuration.write_text(
            CONFIGURATION.format(
                redis=redis_port,
                redis_timeout=2.0 if redis_port == self._environment.redis.port else 0.2,
                state=self._state,
                database=f'database_url = "{self._database}"' if self._database else "",
                orchestrator_wait=10.0 if self._procedure.under_prefect else 0.05,
                exchange=self._environment.exchange.url,
                login=login_name(),
            )
        )
        ended = self._environment.forks.run(
            Order(
                arguments=arguments,
                environment={
                    "BREAKER_CONFIG": str(configuration),
                    "PREFECT_API_URL": self._environment.orchestrator(self._procedure.under_prefect),
                    "PREFECT_API_REQUEST_TIMEOUT": "10",  # a busy machine is not what is tried here
                },
                output=self._directory / f"said_{number}",
                journal=journal,
                root=self._state,
                peers=self._environment.peers,
                death=death,
                last_resort=last_resort,
            )
        )
        return Run(ended, read_points(journal))

    def _credentials(self) -> Path:
        path = self._host / "credentials.json"
        body = {"account": "PAPER", "base_url": self._environment.exchange.url, "key_id": "key", "secret_key": "secret"}
        path.write_text(json.dumps({**body, "spool": str(self._spool), "pace": LAST_RESORT_PACE}))
        path.chmod(0o600)
        return path

    def _rows(self) -> tuple[list[dict[str, Any]], str]:
        """Every row, and what is wrong with the chain. Where there is no ledger yet there is no row."""
        file = self._state / "audit.db"
        if self._database is None and not file.exists():
            return [], "there is no ledger"
        with contextlib.closing(Ledger.connect(self._database or f"sqlite:///{file}")) as ledger:
            try:
                raw = [row for batch in ledger.stream() for row in batch]
                problem = verify(ledger, key=None).problem
            except LedgerError as error:
                return [], str(error)
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in raw]
        return [{**row, "details": json.loads(row["details"])} for row in rows], problem.sentence if problem else ""


def _make_ready(url: str) -> None:
    with _migrating, contextlib.closing(Ledger.connect(url)) as ledger:
        upgrade(ledger)


def _port_of(url: str) -> int:
    return int(url.removeprefix("http://").partition(":")[2].partition("/")[0])
