"""Run Prefect as on several hosts, and lose one after the other of its parts while breakers are tripped.

`python -m proofs.prefect_servers` starts two API servers and two processes of Prefect's services, on one PostgreSQL and
one Redis, and `services.serve` at each API server. Each time a breaker is tripped its recovery has to begin, and
scheduled verifications have to go on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import redis

from breaker import CircuitBreaker
from sandbox.child_process import Child, end, free_port, spawn
from sandbox.embedded_redis import EmbeddedRedis
from tasks.recovery.state import claim_key
from tests.ledger.servers import Postgres

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "docs" / "evidence" / "prefect-servers.md"
UP_WITHIN = 180.0
BEGINS_WITHIN = 120.0
"""Seconds after a trip in which its recovery has to begin. The machine may be busy."""
VERIFIED_WITHIN = 240.0
LOOK_EVERY = 0.1
_STOP_WITHIN = 10.0
_ASKS_WITHIN = 5.0
"""Seconds: whoever waits for events asks for them again after one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A trip while something was missing. `began` is None where no recovery came of it."""

    missing: str
    began: float | None
    """Seconds from the trip to its recovery's first act."""
    verified: bool
    """A scheduled verification that began afterwards has ended, whatever it found."""


class Hosts:
    """Two of everything but PostgreSQL and Redis, which have replicas of their own elsewhere."""

    def __init__(self, directory: Path, postgres: Postgres, messaging: EmbeddedRedis, breakers: EmbeddedRedis) -> None:
        self._directory = directory
        self._running: dict[str, Child] = {}
        self._messaging = redis.Redis.from_url(messaging.url)
        self.redis = redis.Redis.from_url(breakers.url)
        CircuitBreaker(self.redis).initialize_state()
        postgres.execute("postgres", "CREATE DATABASE prefect")
        (directory / "breaker.toml").write_text(f'redis_url = "{breakers.url}"\nstate_dir = "{directory / "state"}"\n')
        rest = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
        self._rest = {**rest, "PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1"}
        self._server = {
            **self._rest,
            "PREFECT_HOME": str(directory / "servers"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": postgres.dsn("prefect").replace("://", "+asyncpg://", 1),
            "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
            "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
            "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
            "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
            "PREFECT_SERVER_DOCKET_URL": f"redis://127.0.0.1:{messaging.port}/1",
            "PREFECT_REDIS_MESSAGING_URL": f"redis://127.0.0.1:{messaging.port}/0",
            "PREFECT_REDIS_MESSAGING_PUBLISHER_BATCH_SIZE": "1",
        }
        self.ports = {"A": free_port(), "B": free_port()}

    def upgrade_database(self) -> None:
        """By itself, before any server: two that find an old one would both upgrade it."""
        command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
        subprocess.run(command, env=self._server, check=True, capture_output=True)

    def start_api(self, host: str) -> None:
        """Returns once it is ready: two that begin on a new database at once collide at the blocks they register."""
        port = str(self.ports[host])
        command = ["prefect", "server", "start", "--no-services", "--host", "127.0.0.1", "--port", port]
        self._start(f"API server {host}", command, self._server)
        _eventually(lambda: self._ask(host, "GET", "/ready") is not None, f"API server {host} is not ready", UP_WITHIN)

    def start_services(self, host: str, *, triggers: bool = True) -> None:
        """Without `triggers`: as one whose triggers failed while it came up, which Prefect neither says nor mends."""
        enabled = {"PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": str(triggers).lower()}
        before = self._consuming()
        self._start(f"services {host}", ["prefect", "server", "services", "start"], {**self._server, **enabled})
        if triggers:
            _eventually(lambda: self._consuming() > before, f"services {host} evaluate no event", UP_WITHIN)

    def _consuming(self) -> int:
        """How many processes evaluate events for triggers at the moment."""
        with suppress(redis.ResponseError):  # nobody ever has
            consumers: Any = self._messaging.xinfo_consumers("events", "reactive-triggers")
            return sum(each["idle"] < _ASKS_WITHIN * 1_000 for each in consumers)
        return 0

    def serve(self, host: str) -> None:
        ours = {
            "BREAKER_CONFIG": str(self._directory / "breaker.toml"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.ports[host]}/api",
            "PREFECT_HOME": str(self._directory / f"home-{host}"),
        }
        self._start(f"serve {host}", ["services.serve"], {**self._rest, **ours})
        _eventually(lambda: len(self._found(host, "deployments")) >= 6, f"serve {host} serves nothing", UP_WITHIN)

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for process in reversed(list(self._running.values())):
            with suppress(OSError):
                end(process, within=_STOP_WITHIN)

    def trip(self, scope: str, missing: str, host: str) -> Seen:
        """Trip that breaker; what its API server `host` then says of a verification."""
        begun_at = datetime.now(UTC)
        breaker = CircuitBreaker(self.redis, scope)
        breaker.initialize_state()
        tripped, at = breaker.trip("MANUAL"), time.monotonic()
        breaker.close()
        began = _within(BEGINS_WITHIN, lambda: self.redis.exists(claim_key(str(tripped.incident_id))))
        seen = Seen(missing, None if began is None else time.monotonic() - at, self._verifies(host, begun_at))
        print(seen, flush=True)
        return seen

    def _verifies(self, host: str, since: datetime) -> bool:
        def ended() -> bool:
            runs = self._found(host, "flow_runs", {"flows": {"name": {"any_": ["health-verification"]}}})
            return any(
                run["state_type"] in ("COMPLETED", "FAILED") and datetime.fromisoformat(run["start_time"]) >= since
                for run in runs
            )

        return _within(VERIFIED_WITHIN, ended) is not None

    def _found(self, host: str, what: str, asked: object = None) -> list[dict[str, Any]]:
        return self._ask(host, "POST", f"/{what}/filter", asked or {}) or []

    def _ask(self, host: str, method: str, path: str, body: object = None) -> Any:
        with suppress(httpx.HTTPError, ValueError):
            url = f"http://127.0.0.1:{self.ports[host]}/api{path}"
            return httpx.request(method, url, json=body, timeout=20).raise_for_status().json()
        return None

    def _start(self, name: str, module: Sequence[str], environment: dict[str, str]) -> None:
        with (self._directory / f"{name.replace(' ', '-')}.log").open("ab") as log:
            self._running[name] = spawn([sys.executable, "-m", *module], env=environment, output=log, cwd=ROOT)


@contextmanager
def hosts(directory: Path) -> Iterator[Hosts]:
    (directory / "postgres").mkdir()
    postgres = Postgres(directory / "postgres" / "data")
    postgres.start()
    try:
        with EmbeddedRedis(directory / "messaging") as messaging, EmbeddedRedis(directory / "breakers") as breakers:
            running = Hosts(directory, postgres, messaging, breakers)
            try:
                yield running
            finally:
                running.stop()
    finally:
        postgres.stop()


def campaign(running: Hosts) -> list[Seen]:
    """Everything, then without one host's part, then without what evaluates events, then with all of it again."""
    running.upgrade_database()
    for host in ("A", "B"):
        running.start_api(host)
        running.start_services(host)
    for host in ("A", "B"):
        running.serve(host)
    seen = [running.trip("account:ONE", "nothing", "A")]
    for part in ("API server A", "services A", "serve A"):
        running.kill(part)
    seen.append(running.trip("account:TWO", "one API server, one process of services, one `services.serve`", "B"))
    running.kill("services B")
    running.start_services("B", triggers=False)
    seen.append(running.trip("account:THREE", "the same, and the other process's triggers", "B"))
    running.start_api("A")
    running.start_services("A")
    running.serve("A")
    return [*seen, running.trip("account:FOUR", "nothing, after all that", "A")]


def page(seen: Sequence[Seen]) -> str:
    rows = "\n".join(
        f"| {each.missing} | {'never' if each.began is None else f'{each.began:.1f} s'} "
        f"| {'yes' if each.verified else 'no'} |"
        for each in seen
    )
    return f"""# Several Prefect servers

Written by `make prefect-servers` on {datetime.now(UTC):%Y-%m-%d}: two API servers (`prefect server start
--no-services`), two processes of services (`prefect server services start`), one PostgreSQL, one Redis for Prefect, and
`services.serve` at each API server, all on one machine
([how it is set up](../how-to/three-hosts.md#several-prefect-servers)). What is missing was lost by SIGKILL. Load
average {os.getloadavg()[0]:.0f}.

| missing | trip → its recovery's first act | a scheduled verification ran afterwards |
| --- | --- | --- |
{rows}

Without triggers no event starts anything; the services ask Prefect for the recovery when nothing has come of their
announcement in 20 s. Not tried here: the loss of Prefect's PostgreSQL or Redis, and servers of different versions.
"""


def _within(seconds: float, happened: Callable[[], object]) -> float | None:
    """Seconds until it had happened; None where it has not."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        if happened():
            return time.monotonic() - begun
        time.sleep(LOOK_EVERY)
    return None


def _eventually(happened: Callable[[], object], otherwise: str, within: float) -> None:
    if _within(within, happened) is None:
        raise SystemExit(f"{otherwise} after {within:g} s")


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(
        prog="python -m proofs.prefect_servers", description=(__doc__ or "").split("\n")[0]
    )
    options.add_argument("--write", action="store_true", help=f"write what was seen into {EVIDENCE.name}")
    chosen = options.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="prefect-servers-") as directory:
        Path(directory).chmod(0o755)  # PostgreSQL runs as somebody else
        with hosts(Path(directory)) as running:
            seen = campaign(running)
    if chosen.write:
        EVIDENCE.write_text(page(seen), encoding="utf-8")
    return 0 if all(each.began is not None and each.verified for each in seen) else 1


if __name__ == "__main__":
    sys.exit(main())
