"""The reference topology of docs/how-to/three-hosts.md on three machines, a venue on a fourth, and somebody who looks.

Whoever looks is on the bridge, where no cable of a host that is pulled is in between to those that are left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import httpx
import psutil
import psycopg2
import redis

from breaker import CircuitBreaker, State, open_redis
from breaker.errors import BreakerError
from breaker.keys import Keys
from ledger.ledger import Ledger
from ledger.schema import upgrade
from proofs.sentinels import MASTER
from proofs.three_hosts.host import STARTS_WITHIN, Host, Service
from proofs.three_hosts.network import Machine
from proofs.three_hosts.servers import (
    REDIS_PORT,
    SENTINEL_PORT,
    answers,
    begin_redis,
    begin_sentinel,
    primary_by,
    replicas_online,
)
from sandbox.child_process import Child
from sandbox.exchange.scenario import Scenario
from sandbox.exchange.server import PaperExchange
from sandbox.prefect_server import PrefectServer
from tasks.running_services import STANDBY, WATCHES, read_services
from tests.helpers import eventually
from tests.ledger.servers import Postgres

ROOT: Final = Path(__file__).parents[2]
POOL: Final = "desk"
OPERATOR: Final = "ada"
AUTHOR: Final = "bob"
APPROVER: Final = "cyd"
STALENESS: Final = 0.2
"""Seconds, the default of a gate."""
WATCH: Final = 8.0
CONFIGURATION: Final = """\
environment = "proof"
trip_replicas = 2
database_url = "{database}"
quiet_period = 60
[redis]
sentinels = [{sentinels}]
master = "{master}"
[kill]
deadline = 60
settle = 0.5
guard = 1.5
retry_backoff = 0.5
retry_backoff_max = 1.0
stuck_after = 50
record_wait = 5
[accounts.ALPHA]
base_url = "{venue}"
key_id = "key"
secret_key = "secret"
requests_per_minute = 6000
[recovery]
watch = {watch}
watch_interval = 0.5
condition_deadline = 3
condition_interval = 0.5
redis_latency = 5
database_latency = 5
[recovery.people]
{author} = ["APPROVE_RECOVERY"]
{approver} = ["RESET_CIRCUIT", "APPROVE_RECOVERY"]
[recovery.services.venue]
url = "{venue}/_paper/report"
slow_after = 5
timeout = 10
"""
PACE: Final = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_WORKER_HEARTBEAT_SECONDS": "5"}


class Topology:
    """A context manager. Use it from the thread that made it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._open = contextlib.ExitStack()
        self.hosts: dict[str, Host] = {}

    @property
    def a(self) -> Host:
        return self.hosts["host-a"]

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            self._set_up(opened)
            self._open = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._open.close()

    def _set_up(self, opened: contextlib.ExitStack) -> None:
        apart = Machine("venue", 9)
        opened.callback(apart.close)
        self.venue = PaperExchange(host=apart.address)
        apart.do(self.venue.start)
        opened.callback(lambda: apart.do(self.venue.stop))
        machines = [Machine(f"host-{letter}", number) for number, letter in enumerate("abc", 1)]
        self._first, *_ = (machine.address for machine in machines)
        self.sentinels = [f"{machine.address}:{SENTINEL_PORT}" for machine in machines]
        self.redis_url = f"redis+sentinel://{','.join(self.sentinels)}/{MASTER}/0"
        self.prefect_url = f"http://{self._first}:4200/api"
        kept = {"PATH", "LANG", "LC_ALL", "TERM"}
        environment = {
            **{name: value for name, value in os.environ.items() if name in kept},
            "BREAKER_CONFIG": str(self._home / "breaker.toml"),
            "PREFECT_API_URL": self.prefect_url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
            **PACE,
        }
        for machine in machines:
            host = Host(machine, self._home / machine.name, environment)
            opened.callback(host.close)
            self.hosts[machine.name] = host
        self._start_stores()
        self._start_prefect()
        self._start_programs()

    # --- setting up -------------------------------------------------------------------------------------------------
    def _start_stores(self) -> None:
        for host in self.hosts.values():
            for name, begin, port in (("redis", begin_redis, REDIS_PORT), ("sentinel", begin_sentinel, SENTINEL_PORT)):
                host.services[name] = Service(
                    partial(host.machine.do, partial(begin, host.home / name, host.address, self._first)),
                    partial(_answers, host.address, port),
                )
                host.services[name].start()
        first, second, _ = self.hosts.values()
        primary = first.machine.do(lambda: Postgres(first.home / "postgres", host=first.address))
        self._add_postgres(first, primary)
        first.services["postgres"].start()
        standby = second.machine.do(lambda: Postgres(second.home / "postgres", host=second.address, standby_of=primary))
        self._add_postgres(second, standby)
        second.services["postgres"].start()
        self.ledger_url = primary.create_database("breaker")
        with contextlib.closing(Ledger.connect(self.ledger_url, timeout=30)) as ledger:
            upgrade(ledger)
        both = f"{primary.host}:{primary.port},{standby.host}:{standby.port}"
        (self._home / "breaker.toml").write_text(
            CONFIGURATION.format(
                database=f"postgresql://postgres@{both}/breaker?target_session_attrs=read-write",
                sentinels=", ".join(f'"{each}"' for each in self.sentinels),
                master=MASTER,
                venue=self.venue.url,
                watch=WATCH,
                author=AUTHOR,
                approver=APPROVER,
            )
        )
        self.primary_database = primary
        self.settle()
        self.client = open_redis(self.redis_url, timeout=1)
        self.breaker = CircuitBreaker(self.client, timeout=3)
        self.breaker.initialize_state(by=OPERATOR)

    def _add_postgres(self, host: Host, server: Postgres) -> None:
        def begin() -> Child:
            server.stop(signal.SIGKILL)  # what is left of the one before
            host.machine.do(server.start)
            assert server.process is not None
            return server.process

        host.services["postgres"] = Service(begin, lambda _: _takes_connections(server))

    def _start_prefect(self) -> None:
        host = self.a
        started: list[Child] = []
        # With its tables in a file the server stands still for a minute when workers on three hosts write at once.
        database = self.primary_database.create_database("prefect").replace("postgresql://", "postgresql+asyncpg://")

        def start(command: Sequence[str], *, env: Mapping[str, str], output: IO[bytes]) -> Child:
            env = {**env, "PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
            started.append(host.start_command(command, env=env, output=output))
            return started[-1]

        server = PrefectServer(host.home / "prefect-server", port=4200, host=host.address, start=start)

        def begin() -> Child:
            server.start()
            return started[-1]

        host.services["prefect"] = Service(begin, lambda _: self._health() == 200)
        host.services["prefect"].start()
        self._wait_for(host, "prefect")
        made = host.run("prefect", "--no-prompt", "work-pool", "create", "--type", "process", POOL)
        assert made.returncode == 0, made.stdout + made.stderr
        where = {"BREAKER_HOME": str(ROOT), "BREAKER_WORK_POOL": POOL, "BREAKER_ENVIRONMENT": "proof"}
        how = ("--all", "--prefect-file", str(ROOT / "deployments" / "prefect.yaml"))
        deployed = host.run("prefect", "--no-prompt", "deploy", *how, cwd=ROOT, timeout=120, also=where)
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        self.have_recoveries(begin=False)

    def _start_programs(self) -> None:
        for host in self.hosts.values():
            whose = ("--pool", POOL, "--name", host.name)
            host.services["worker"] = Service(
                partial(host.begin, "services.pool_worker", *whose, log="worker", worker=True),
                partial(self._worker_is_ready, host),
                host.worker_root,
            )
            for name, service in (("services", WATCHES), ("standby", STANDBY)):
                host.services[name] = Service(
                    partial(host.begin, "cli", name, log=name), partial(self._has_reported, service)
                )
        engines = self.hosts["host-c"]
        self.engine_log = engines.home / "engine.jsonl"
        arguments = (self.redis_url, str(engines.state / "pending_trips"), str(self.engine_log))
        engines.services["engine"] = Service(
            partial(engines.begin, "proofs.three_hosts.engine", *arguments, log="engine"), lambda _: True
        )
        self.heal()

    def _worker_is_ready(self, host: Host, child: Child) -> bool:
        found = self.asked(f"work_pools/{POOL}/workers/filter")
        heard = [datetime.fromisoformat(each["last_heartbeat_time"]) for each in found if each["name"] == host.name]
        return any(at.timestamp() > psutil.Process(child.pid).create_time() for at in heard)

    def _has_reported(self, service: str, child: Child) -> bool:
        try:
            return any((each.service, each.pid) == (service, child.pid) for each in read_services(self.client))
        except redis.RedisError:
            return False

    def _wait_for(self, host: Host, name: str) -> None:
        service = host.services[name]
        eventually(service.is_ready, f"{name} on {host.name} never answered", within=STARTS_WITHIN, every=0.1)

    # --- healing ----------------------------------------------------------------------------------------------------
    def heal(self) -> None:
        """Everything runs, on every host, and knows of the others."""
        waiting = [host.heal() for host in self.hosts.values()]
        last = ""

        def healed() -> bool:
            nonlocal last
            for one in list(waiting):
                if (lacks := next(one, None)) is None:
                    waiting.remove(one)
                else:
                    last = lacks
            return not waiting

        eventually(healed, lambda: f"{last} did not come back", within=STARTS_WITHIN, every=0.1)
        self.settle()

    def settle(self) -> None:
        """One primary, as every Sentinel says, with two replicas that have all it has; and a standby that follows."""

        def settled() -> bool:
            named = {primary_by(host.address) for host in self.hosts.values()}
            return len(named) == 1 and replicas_online(*named) == 2 and self._follows()

        eventually(settled, self._stores, within=STARTS_WITHIN, every=0.1)

    def _stores(self) -> str:
        named = {host.name: primary_by(host.address) for host in self.hosts.values()}
        return f"the stores never settled: primaries {named}, standby follows: {self._follows()}"

    def _follows(self) -> bool:
        try:
            with contextlib.closing(psycopg2.connect(self.ledger_url, connect_timeout=2)) as connection:
                cursor = connection.cursor()
                cursor.execute("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
                return bool(cursor.fetchone() == (1,))
        except psycopg2.Error:
            return False

    # --- looking ----------------------------------------------------------------------------------------------------
    def host_of_primary(self) -> Host:
        """Where Redis's primary is, by the word of most Sentinels."""
        named = [primary_by(host.address) for host in self.hosts.values()]
        by_address = {host.address: host for host in self.hosts.values()}
        return by_address[max(filter(None, named), key=named.count)]

    def host_that_watches(self) -> Host | None:
        """Whose service, or standby, watches the newest reset; None where its recovery does, or nobody."""
        try:
            holder = self.client.hget(Keys.of().key("reset_watch"), "holder")
        except redis.RedisError:
            return None
        return self.hosts.get(holder.decode().partition(" on ")[2]) if isinstance(holder, bytes) else None

    def recovery(self) -> dict[str, Any]:
        """The picture of the newest; empty while Redis is away."""
        try:
            raw = self.client.get(Keys.of().key("recovery"))
        except redis.RedisError:
            return {}
        return json.loads(raw) if isinstance(raw, bytes) else {}

    def report(self) -> dict[str, Any]:
        return self.venue.report()

    def asked(self, what: str, body: Mapping[str, object] | None = None) -> list[dict[str, Any]]:
        """Of Prefect; nothing while it is away."""
        try:
            answer = httpx.post(f"{self.prefect_url}/{what}", json=body or {}, timeout=5)
            answer.raise_for_status()
        except httpx.HTTPError:
            return []
        found: list[dict[str, Any]] = answer.json()
        return found

    def host_of_run(self, flow_run_id: str) -> Host | None:
        """Whose worker runs it, or ran it last."""
        for run in self.asked("flow_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}}):
            name = str(run.get("infrastructure_pid") or "").partition(":")[0]
            return self.hosts.get(name)
        return None

    def stretches(self) -> list[tuple[int, float, float]]:
        """When the engine's gates let orders through: see proofs/three_hosts/engine.py."""
        lines = self.engine_log.read_text().splitlines() if self.engine_log.exists() else []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):  # its process was killed in the middle of it
                number, first, last = json.loads(line)
                found.append((number, first, last))
        return found

    def _health(self) -> int:
        try:
            return httpx.get(f"{self.prefect_url}/health", timeout=1).status_code
        except httpx.HTTPError:
            return 0

    def have_recoveries(self, *, begin: bool) -> None:
        """Whether a trip starts one, and the verification looks after them every minute."""
        eventually(lambda: self._told(begin), "Prefect did not take it", within=STARTS_WITHIN, every=0.5)

    def _told(self, begin: bool) -> bool:
        with contextlib.suppress(httpx.HTTPError):  # busy
            self._tell_prefect(begin)
            return True
        return False

    def _tell_prefect(self, begin: bool) -> None:
        with httpx.Client(base_url=self.prefect_url, timeout=30) as prefect:
            for each in prefect.post("/automations/filter", json={}).raise_for_status().json():
                prefect.patch(f"/automations/{each['id']}", json={"enabled": begin}).raise_for_status()
            asked = {"deployments": {"name": {"any_": ["health-verification"]}}}
            (verification,) = prefect.post("/deployments/filter", json=asked).raise_for_status().json()
            prefect.patch(f"/deployments/{verification['id']}", json={"paused": not begin}).raise_for_status()

    # --- beginning a case -------------------------------------------------------------------------------------------
    def begin_anew(self, scenario: Scenario) -> None:
        """That book at the venue, an OPEN breaker, and an engine that trades."""
        self.venue.restart(scenario)
        eventually(self._opened, "the breaker could not be opened", every=0.2)
        since = time.time()
        eventually(
            lambda: any(number == 2 and last > since for number, _, last in self.stretches()),
            "the engine's gates never opened",
            every=0.1,
        )

    def _opened(self) -> bool:
        """As by a reset whose watch is over: what one case leaves must not be watched in the next.

        False where Redis refuses it, as while a replica that has just come back is not counted yet.
        """
        with contextlib.suppress(redis.RedisError, BreakerError):
            self._open_breaker()
            return self.client.wait(2, 1_000) == 2
        return False

    def _open_breaker(self) -> None:
        if self.breaker.get_state() is State.OPEN:
            return
        self.client.delete(Keys.of().reset_rate_limit)
        with contextlib.closing(CircuitBreaker(self.client, timeout=5, quiet_period=0)) as breaker:
            reset = breaker.reset(reset_by=OPERATOR, reason="the next case of three begins")
        now = round(time.time() * 1000)
        over: dict[Any, Any] = {"epoch": reset.epoch or 0, "holder": OPERATOR, "began": now, "seen": now, "ended": now}
        self.client.hset(Keys.of().key("reset_watch"), mapping=over)


def _takes_connections(server: Postgres) -> bool:
    try:
        psycopg2.connect(server.dsn("postgres"), connect_timeout=2).close()
    except psycopg2.Error:
        return False
    return True


def _answers(address: str, port: int, _: Child) -> bool:
    return answers(address, port)
