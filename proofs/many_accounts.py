"""Kill many accounts at once: on one host, spread over a work pool's workers, and with a worker killed in the middle.

`python -m proofs.many_accounts` starts a paper exchange for each account, a Redis, a Prefect server and three workers,
each with a state directory of its own, and runs `breaker kill` as an operator does. Judged by the venues (flat, no
position closed twice) and the ledger (each record once, one report).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
import redis

from breaker import CircuitBreaker
from ledger.ledger import Ledger
from ledger.queries import Filter
from ledger.record import AuditRow
from ledger.schema import upgrade
from sandbox.child_process import Child, spawn
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import Scenario, parse
from sandbox.exchange.server import PaperExchangeThread
from sandbox.prefect_server import PrefectServer
from tasks.kill.status import KillStatus
from tests.helpers import eventually
from tests.ledger.servers import Postgres

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "docs" / "evidence" / "many-accounts.md"
BIN = Path(sys.executable).parent
POOL = "desk"
WORKERS = 3
SPREAD = WORKERS + 1
"""The command closes a share too."""
STARTS_WITHIN = 200
"""Seconds for `kill.share_starts_within`: three workers that begin at once on a small machine hold up each other."""
UP_WITHIN = 180.0


@dataclass
class Outcome:
    """One kill."""

    accounts: int
    where: str
    document: dict[str, Any]
    wall: float
    """Seconds until the command had ended."""
    cpu: float
    """Seconds of processor time of the command and the workers, Prefect's server aside."""
    problems: list[str] = field(default_factory=list)


class Desk:
    """Accounts, each at a venue of its own, and what a kill of them needs."""

    def __init__(self, directory: Path, accounts: int, scenario: Scenario, running: ExitStack) -> None:
        self.directory, self.scenario = directory, scenario
        self.redis_server = running.enter_context(EmbeddedRedis(directory / "redis"))
        self.redis = running.enter_context(redis.Redis.from_url(self.redis_server.url))
        self._postgres = Postgres(directory / "postgres")
        self._postgres.start()
        running.callback(self._postgres.stop)
        self._postgres.create_database("prefect")
        self.prefect = running.enter_context(PrefectServer(directory / "prefect", start=self._on_postgres))
        self.venues = {
            f"A{number:03}": running.enter_context(PaperExchangeThread(scenario)) for number in range(1, accounts + 1)
        }
        self._runs = 0
        self.state_dirs: list[Path] = []

    def _on_postgres(self, command: Sequence[str], *, env: Mapping[str, str], output: IO[bytes]) -> Child:
        """Prefect's server: on SQLite, and this many clients, it is locked for seconds."""
        database = self._postgres.dsn("prefect").replace("postgresql://", "postgresql+asyncpg://")
        return spawn(command, env={**env, "PREFECT_SERVER_DATABASE_CONNECTION_URL": database}, output=output)

    def prepare(self, accounts: int, per_worker: int | None) -> None:
        """Books as they were, a breaker that is open, an empty ledger; and the configuration of so many accounts."""
        self._runs += 1
        self.home = self.directory / f"run-{self._runs}"
        self.home.mkdir()
        self.state_dirs = []
        self.covered = list(self.venues)[:accounts]
        for name in self.covered:
            self.venues[name].restart(self.scenario)
        self.redis.flushall()
        CircuitBreaker(self.redis).initialize_state()
        self.ledger_url = self._postgres.create_database(f"run_{self._runs}")
        with closing(Ledger.connect(self.ledger_url)) as ledger:
            upgrade(ledger)
        lines = [
            f'redis_url = "{self.redis_server.url}"',
            f'database_url = "{self.ledger_url}"',
            'environment = "proof"',
            *(
                []
                if per_worker is None
                else [f"[kill]\naccounts_per_worker = {per_worker}\nshare_starts_within = {STARTS_WITHIN}"]
            ),
        ]
        lines += [
            f'[accounts.{name}]\nbase_url = "{self.venues[name].url}"\nkey_id = "key"\nsecret_key = "secret"'
            for name in self.covered
        ]
        (self.directory / "breaker.toml").write_text("\n".join(lines))

    def environment(self, host: str, *, orchestrated: bool) -> dict[str, str]:
        """Of a process on that host: a state directory and a home of Prefect's of its own."""
        state = self.home / host
        if state not in self.state_dirs:
            self.state_dirs.append(state)
        ours = {
            "BREAKER_CONFIG": str(self.directory / "breaker.toml"),
            "BREAKER_STATE_DIR": str(state),
            "BREAKER_HOME": str(ROOT),
            "BREAKER_WORK_POOL": POOL,
            "BREAKER_ENVIRONMENT": "proof",
            "PREFECT_HOME": str(self.directory / f"home-{host}"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PYTHONPATH": str(ROOT),
        }
        rest = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
        return rest | ours | ({"PREFECT_API_URL": self.prefect.api_url} if orchestrated else {})

    def kill(self, *, orchestrated: bool) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(BIN / "breaker"), "kill", "--yes", "--json", "--reason", "a proof"],
            env=self.environment("desk", orchestrated=orchestrated),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def deploy(self) -> None:
        environment = self.environment("desk", orchestrated=True)
        for command in (
            ["work-pool", "create", "--type", "process", POOL],
            ["--no-prompt", "deploy", "--name", "kill-share", "--prefect-file", "deployments/prefect.yaml"],
        ):
            done = subprocess.run(
                [str(BIN / "prefect"), *command], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"prefect {command[0]}: {done.stdout[-500:]}{done.stderr[-1500:]}")

    @contextmanager
    def workers(self) -> Iterator[Sequence[psutil.Process]]:
        """Three of them, each taking one run at a time."""
        processes = []
        for number in range(1, WORKERS + 1):
            host = f"worker-{number}"
            with (self.home / f"{host}.log").open("w") as log:
                processes.append(
                    psutil.Popen(
                        [str(BIN / "prefect"), "worker", "start", "--pool", POOL, "--name", host, "--limit", "1"],
                        env=self.environment(host, orchestrated=True),
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        cwd=ROOT,
                    )
                )
        try:
            eventually(self._served, "the workers did not report", within=UP_WITHIN, every=0.5)
            yield processes
        finally:
            for each in processes:
                kill_tree(each)

    def _served(self) -> bool:
        found = httpx.post(f"{self.prefect.api_url}/work_pools/{POOL}/workers/filter", json={}, timeout=10).json()
        deployments = httpx.post(f"{self.prefect.api_url}/deployments/filter", json={}, timeout=10).json()
        online = [each for each in found if each["status"] == "ONLINE"]
        return len(online) >= WORKERS and all(each["status"] == "READY" for each in deployments)

    def shares(self) -> list[KillStatus]:
        """What the workers say of theirs."""
        listed = {name.decode() for name in self.redis.zrange("circuit_breaker:kill_runs", 0, -1)}
        keys = [key for key in self.redis.keys("circuit_breaker:kill_run:*") if key.decode()[25:] not in listed]
        return [KillStatus.from_json(raw) for raw in self.redis.mget(keys) if raw] if keys else []

    def worker_of(self, share: KillStatus, workers: Sequence[psutil.Process]) -> psutil.Process | None:
        """Which worker runs it."""
        asked = {"flows": {"name": {"any_": ["kill-share"]}}}
        runs = httpx.post(f"{self.prefect.api_url}/flow_runs/filter", json=asked, timeout=20).json()
        named = {each["id"] for each in runs if each["parameters"]["run_id"] == share.run_id}
        for worker in workers:
            for process in worker.children(recursive=True):
                with suppress(psutil.Error):
                    if process.environ().get("PREFECT__FLOW_RUN_ID") in named:
                        return worker
        return None

    def judge(self, document: dict[str, Any]) -> list[str]:
        """What is not as it was to be, by venues, ledger and report."""
        problems = [] if document["flat"] else ["the report says NOT FLAT"]
        if [each["account"] for each in document["accounts"]] != self.covered:
            problems.append("the report is not of all accounts")
        if [each["account"] for each in document["costs"]] != self.covered:
            problems.append("the costs are not of all accounts")
        for name in self.covered:
            seen = self.venues[name].report()
            if not seen["is_flat"]:
                problems.append(f"{name} is not flat: {seen['open_orders']} orders, {seen['positions']}")
            if seen["sign_changes"] or seen["violations"]:
                problems.append(f"{name}: {seen['violations'] or seen['sign_changes']}")
        return problems + self._judge_records(document)

    def _judge_records(self, document: dict[str, Any]) -> list[str]:
        for state in self.state_dirs:  # as on a host that has come back
            drained = {**self.environment(state.name, orchestrated=False)}
            subprocess.run([str(BIN / "breaker"), "audit", "drain"], env=drained, capture_output=True, check=False)
        rows = self._rows()
        count = Counter(row.action for row in rows)
        problems = [f"{count[word]} rows {word}" for word in _ONCE if count[word] != 1]
        costs = Counter(row.details["account"] for row in rows if row.action == "KILL_SWITCH_COST")
        if costs != Counter(self.covered):
            problems.append("KILL_SWITCH_COST is not there once for each account")
        took = Counter(
            (row.details["account"], row.details["client_order_id"])
            for row in rows
            if row.action == "POSITION_CLOSE_ANSWERED" and row.details["outcome"] == "accepted"
        )
        problems += [f"{times} closes were taken under the name {which}" for which, times in took.items() if times > 1]
        closed = sum(sum(self.venues[name].report()["closes"].values()) for name in self.covered)
        if count["POSITION_CLOSE_SENT"] < closed:
            problems.append(f"{closed} closes at the venues, {count['POSITION_CLOSE_SENT']} on record")
        return problems

    def _rows(self) -> list[AuditRow]:
        with closing(Ledger.connect(self.ledger_url)) as ledger:
            return list(ledger.query(Filter(), limit=1_000_000).rows)


_ONCE = ("CIRCUIT_BREAKER_TRIP", "KILL_SWITCH_STARTED", "KILL_SWITCH_FINISHED")


def on_one_host(desk: Desk, accounts: int, *, orchestrated: bool) -> Outcome:
    desk.prepare(accounts, None)
    before, began = _cpu_of_children(), time.monotonic()
    document = _document(desk.kill(orchestrated=orchestrated))
    wall = time.monotonic() - began
    where = "one host, with Prefect" if orchestrated else "one host, without Prefect"
    return Outcome(accounts, where, document, wall, _cpu_of_children() - before, desk.judge(document))


def over_workers(desk: Desk, accounts: int, *, kill_one: bool) -> Outcome:
    desk.prepare(accounts, -(-accounts // SPREAD))
    with desk.workers() as workers:
        at_work, before, began = sum(map(_cpu_of, workers)), _cpu_of_children(), time.monotonic()
        command = desk.kill(orchestrated=True)
        lost = _kill_in_the_middle(desk, workers) if kill_one else 0.0
        document = _document(command)
        wall = time.monotonic() - began
        cpu = _cpu_of_children() - before + sum(_cpu_of(each) for each in workers if each.is_running()) - at_work + lost
        problems = desk.judge(document)
    if kill_one and not any(said.startswith("the worker of ") for said in document["missing"]):
        problems.append("the lost worker's share was not taken over")
    problems += [said for said in document["missing"] if said.startswith("workers for ")]
    where = f"the command and {WORKERS} workers{', one killed in the middle' if kill_one else ''}"
    return Outcome(accounts, where, document, wall, cpu, problems)


def _kill_in_the_middle(desk: Desk, workers: Sequence[psutil.Process]) -> float:
    """SIGKILL a worker with its run once that has closed something; its processor seconds until then."""

    def in_the_middle() -> psutil.Process | None:
        for share in desk.shares():
            if not share.reported and any(account.done for account in share.accounts):
                return desk.worker_of(share, workers)
        return None

    worker = eventually(in_the_middle, "no share was ever in the middle", within=300, every=0.05)
    assert worker is not None
    used = _cpu_of(worker)
    kill_tree(worker)
    return used


def kill_tree(process: psutil.Process) -> None:
    """As when a host dies."""
    try:
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for each in tree:
        try:
            each.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(tree, 10)


def _cpu_of(process: psutil.Process) -> float:
    """Its processor time with that of what it has started."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            used = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system + used.children_user + used.children_system
    return total


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _document(command: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = command.communicate(timeout=600)
    if not out.startswith("{"):
        raise SystemExit(f"no report: {out[-500:]}{err[-1500:]}")
    document: dict[str, Any] = json.loads(out.splitlines()[0])
    return document


def _row(outcome: Outcome) -> str:
    gone, flat = (
        "never" if after is None else f"{after:.1f} s"
        for after in (outcome.document["no_orders_after"], outcome.document["flat_after"])
    )
    taken_over = sum(said.startswith("the worker of ") for said in outcome.document["missing"])
    found = "; ".join(outcome.problems[:5]) or "nothing"
    times = (gone, flat, f"{outcome.wall:.1f} s", f"{outcome.cpu:.1f} s")
    cells = (outcome.accounts, outcome.where, *times, taken_over, found)
    return f"| {' | '.join(map(str, cells))} |"


def report(outcomes: Sequence[Outcome], scenario: Scenario) -> str:
    rows = "\n".join(map(_row, outcomes))
    lost = [said for each in outcomes for said in each.document["missing"] if said.startswith("the worker of ")]
    return f"""\
# Kill switches of many accounts

Written by `make many-accounts` on {datetime.now(UTC):%Y-%m-%d}: `breaker kill --yes` on accounts of
{scenario.book.orders} orders and {scenario.book.positions} positions, each at a paper exchange of its own. Everything
runs on one machine of {os.cpu_count()} cores: the command, three workers with a state directory and a home of their
own, Redis, PostgreSQL with the ledger and Prefect's tables, Prefect's server, and the venues, which are threads of one
process and so at most one core. Wall times are therefore those of a machine that is busy (load average
{os.getloadavg()[1]:.0f}, with what else ran there), and no measure of several hosts; processor time is that of command
and workers, which several hosts would share. `kill.share_starts_within` is {STARTS_WITHIN} s here. Where no Prefect is
configured the command starts one for a moment when all is done, to record it: in its end and its processor time.

| accounts | run by | no open order | flat | command ended | processor time | shares taken over | found wrong |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

*Found wrong* is what is not so of: every venue flat; no close larger than its position, no closes at work together that
are, and no position turned, so that nothing was closed twice; no name of a close was taken twice, and every close of
the venues is on record; one report, one row of the trip, the start and the end, the cost of each account once.

Killed in the middle means SIGKILL of a worker with its run, once that had closed something and not yet reported. A
share that is taken over although its worker lives, on a machine too busy for a sign of life within three seconds, is
closed by both at once, which has to do as little harm.

The command said: {"; ".join(f"*{said}*" for said in lost) or "nothing"}.
"""


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m proofs.many_accounts", description=(__doc__ or "").split("\n")[0])
    options.add_argument("--accounts", type=int, nargs="+", default=[1, 10, 50, 100], help="the last is spread too")
    options.add_argument("--orders", type=int, default=50)
    options.add_argument("--positions", type=int, default=20)
    options.add_argument("--only-workers", action="store_true", help="leave out the kills on one host")
    options.add_argument("--write", action="store_true", help=f"write {EVIDENCE.name}")
    given = options.parse_args()
    scenario = parse(f"[book]\norders = {given.orders}\npositions = {given.positions}\n")
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as directory, ExitStack() as running:
        desk = Desk(Path(directory), given.accounts[-1], scenario, running)
        desk.prepare(1, 1)
        desk.deploy()
        kills = [partial(over_workers, desk, given.accounts[-1], kill_one=kill_one) for kill_one in (True, False)]
        if not given.only_workers:
            kills += [partial(on_one_host, desk, n, orchestrated=way) for way in (False, True) for n in given.accounts]
        for kill in kills:
            outcomes.append(kill())
            sys.stderr.write(f"{_row(outcomes[-1])}\n")
            if given.write:
                EVIDENCE.write_text(report(outcomes, scenario), encoding="utf-8")
    print(report(outcomes, scenario))
    return 1 if any(each.problems for each in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
