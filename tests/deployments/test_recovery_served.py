"""A recovery from its trip to OPEN, on the deployments as they are served: real orchestrator, real kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
import redis
from prefect.context import refresh_global_settings_context

from breaker import CircuitBreaker
from breaker.rules import Rules
from breaker.settings import load_settings
from console.permissions import Role
from deployments.embedded_redis import EmbeddedRedis
from deployments.prefect_server import PrefectServer
from ledger.ledger import Filter, Ledger
from ledger.record import AuditRow
from tests.console.harness import Console

ROOT = Path(__file__).parents[2]
CONFIGURATION = """
redis_url = "{redis}"
state_dir = "{state}"
quiet_period = 60
[recovery]
watch = 4
watch_interval = 0.2
condition_deadline = 1
condition_interval = 0.3
[recovery.people]
bob = ["APPROVE_RECOVERY"]
cyd = ["RESET_CIRCUIT", "APPROVE_RECOVERY"]
ada = ["RESET_CIRCUIT"]
[recovery.services.gateway]
url = "{service}"
"""
CAUSE = (
    "--root-cause",
    "the quote feed went stale after its failover",
    "--corrective-action",
    "feed pinned to the primary, alarm added",
)
REASON = ("--reason", "feed pinned, data checked, book is flat")


class Service:
    """A service of the platform that answers with the status it is told to."""

    def __init__(self) -> None:
        service = self
        self.status = 200

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(service.status)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Stack:
    """Everything that a recovery needs, started once, and ways to break it."""

    def __init__(self, home: Path, server: EmbeddedRedis, service: Service) -> None:
        self.client = redis.Redis.from_url(server.url)
        self.service = service
        self.prefect = PrefectServer(home / "prefect")
        configuration = home / "breaker.toml"
        configuration.write_text(
            CONFIGURATION.format(redis=server.url, state=home / "state", service=service.url), encoding="utf-8"
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
        self.environment = {
            **kept,
            **self.prefect.environment,
            "BREAKER_CONFIG": str(configuration),
            "HOME": str(home),
            "COLUMNS": "200",
        }
        self.ledger_url = f"sqlite:///{home / 'state' / 'audit.db'}"
        self._log = (home / "serve.log").open("ab")
        self.serving: subprocess.Popen[bytes] | None = None

    def serve(self) -> None:
        self.serving = subprocess.Popen(
            [sys.executable, "-m", "deployments.serve"],
            env=self.environment,
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def kill_serving(self) -> None:
        """The worker and all that it started, at once, as when a machine dies."""
        assert self.serving is not None
        for child in psutil.Process(self.serving.pid).children(recursive=True):
            child.kill()
        self.serving.kill()
        self.serving.wait()

    def kill_recovery_process(self) -> None:
        assert self.serving is not None
        flow_run = self.state()["flow_run_id"]
        mine = [
            child
            for child in psutil.Process(self.serving.pid).children(recursive=True)
            if child.environ().get("PREFECT__FLOW_RUN_ID", "").replace("-", "") == flow_run.replace("-", "")
        ]
        assert mine, "the recovery's process was not found"
        for process in mine:
            process.send_signal(signal.SIGKILL)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def state(self) -> dict[str, Any]:
        raw = self.client.get("circuit_breaker:recovery")
        return json.loads(raw) if isinstance(raw, bytes) else {}

    def wait_until(self, what: str, condition: Callable[[dict[str, Any]], bool], within: float = 90) -> dict[str, Any]:
        deadline = time.monotonic() + within
        while not condition(state := self.state()):
            assert time.monotonic() < deadline, f"not in time: {what}; {state}"
            time.sleep(0.05)
        return state

    def waits_for(self, form: str, incident: str, round_: int = 1) -> None:
        """The picture says so, and the orchestrator has the run suspended."""
        state = self.wait_until(
            f"waiting for {form}",
            lambda s: (s.get("waiting_for"), s.get("incident_id"), s.get("round")) == (form, incident, round_),
        )
        address = f"{self.prefect.api_url}/flow_runs/{state['flow_run_id']}"
        self.wait_until("suspended", lambda _: json.load(urlopen(address, timeout=5))["state"]["type"] == "PAUSED")

    def answered(self, *arguments: str) -> None:
        outcome = self.cli("recover", "answer", *arguments)
        assert outcome.returncode == 0, outcome.stderr

    def refused(self, *arguments: str) -> str:
        outcome = self.cli("recover", "answer", *arguments)
        assert outcome.returncode == 1, outcome.stderr
        return outcome.stderr

    def rows(self, incident: str) -> list[AuditRow]:
        ledger = Ledger.connect(self.ledger_url)
        rows = ledger.query(Filter(incident_id=incident), limit=500).rows
        ledger.close()
        return list(reversed(rows))

    def trip(self, operator: str) -> str:
        assert self.cli("trip", "--reason", "quotes look frozen", "--operator", operator).returncode == 0
        return str(CircuitBreaker(self.client).get_status().incident_id)


@contextmanager
def console_of(stack: Stack) -> Iterator[Console]:
    """A console beside the stack, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack.environment.items():
            if name.startswith(("BREAKER_", "PREFECT_")):
                patch.setenv(name, value)
        refresh_global_settings_context()
        with Console(load_settings()) as running:
            yield running
    refresh_global_settings_context()


def give(console: Console, role: Role, **answer: Any) -> None:
    with console.api(role) as api:
        given = api.post("/recovery/answer", json=answer, timeout=60)
    assert given.status_code == 202, given.text


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("stack")
    service = Service()
    with EmbeddedRedis(home / "redis") as server:
        CircuitBreaker(redis.Redis.from_url(server.url)).initialize_state(by="tests")
        made = Stack(home, server, service)
        with made.prefect:
            made.serve()
            yield made
            made.kill_serving()
    service.close()


@pytest.mark.timeout(300)
def test_promise_9_a_trip_starts_its_recovery_and_people_walk_it_to_open(stack: Stack) -> None:
    incident = stack.trip("ada")
    stack.waits_for("root-cause", incident)
    assert "at least 20" in stack.refused("--operator", "bob", "--root-cause", "dunno")
    assert "eve has no APPROVE_RECOVERY" in stack.refused("--operator", "eve", *CAUSE)
    stack.answered("--operator", "bob", *CAUSE)
    stack.waits_for("approval", incident)

    # While it waits nothing of it runs: the worker and then the orchestrator may come and go.
    stack.kill_serving()
    stack.prefect.stop()
    stack.prefect.start()
    stack.prefect.wait()
    stack.serve()

    assert "bob has no RESET_CIRCUIT" in stack.refused("--operator", "bob", *REASON, "--acknowledge")
    assert "ada tripped the breaker" in stack.refused("--operator", "ada", *REASON, "--acknowledge")
    assert "characters" in stack.refused("--operator", "cyd", "--reason", "fine", "--acknowledge")
    assert "not acknowledged" in stack.refused("--operator", "cyd", *REASON)
    Rules(stack.client).record_equity("100")
    Rules(stack.client).record_equity("90")
    assert "drawdown is 10" in stack.refused("--operator", "cyd", *REASON, "--acknowledge")
    Rules(stack.client).rebase_equity("90")
    stack.client.set("circuit_breaker:reset_rate_limit", "1", px=20_000)
    stack.answered("--operator", "cyd", *REASON, "--acknowledge")
    stack.wait_until("the refusal of a second reset", lambda s: "Rate limit exceeded" in s.get("problem", ""))
    stack.client.delete("circuit_breaker:reset_rate_limit")
    stack.waits_for("approval", incident)
    stack.answered("--operator", "cyd", *REASON, "--acknowledge")
    done = stack.wait_until("recovered", lambda s: s.get("done", False))

    assert CircuitBreaker(stack.client).get_state().value == "OPEN"
    assert {item["tick"] for item in done["items"].values()} <= {"green", "yellow"}
    assert len(done["items"]) == 18
    report = Path(done["report_path"]).read_text()
    assert "the quote feed went stale after its failover" in report
    assert "CIRCUIT_BREAKER_RESET" in report
    actions = [row.action for row in stack.rows(incident)]
    for once in ("CIRCUIT_BREAKER_RESET", "RECOVERY_ROOT_CAUSE", "RECOVERY_FINISHED"):
        assert actions.count(once) == 1, actions
    denied = [row for row in stack.rows(incident) if row.outcome == "DENIED"]
    assert {row.user_id for row in denied} == {"ada", "bob", "cyd", "eve"}


@pytest.mark.timeout(300)
def test_promise_9_red_during_the_watch_trips_again_and_a_killed_watch_goes_on(stack: Stack) -> None:
    incident = stack.trip("ada")
    stack.waits_for("root-cause", incident)
    # By users of the console this time: the configuration names neither of them.
    with console_of(stack) as console:
        give(
            console,
            Role.RISK_MANAGER,
            form="root-cause",
            category="data",
            root_cause=CAUSE[1],
            corrective_action=CAUSE[3],
        )
        stack.waits_for("approval", incident)
        stack.client.delete("circuit_breaker:reset_rate_limit")
        give(console, Role.ADMIN, form="approval", reason=REASON[1], acknowledge=True)
        stack.wait_until("watching", lambda s: s.get("phase") == "watching")
    assert CircuitBreaker(stack.client).get_status().reset_by == "the_admin"
    stack.service.status = 500
    stack.wait_until("reopened", lambda s: s.get("round") == 2)
    status = CircuitBreaker(stack.client).get_status()
    assert status.state.value == "TRIPPED"
    assert status.trip_reason == "WATCH_FAILED"
    assert "gateway" in str(status.trip_details)
    assert status.incident_id == incident

    stack.service.status = 200
    stack.waits_for("root-cause", incident, round_=2)
    stack.answered("--operator", "bob", *CAUSE)
    stack.waits_for("approval", incident, round_=2)
    stack.client.delete("circuit_breaker:reset_rate_limit")
    stack.answered("--operator", "cyd", *REASON, "--acknowledge")
    stack.wait_until("watching", lambda s: s.get("phase") == "watching")
    stack.kill_recovery_process()
    done = stack.wait_until("recovered", lambda s: s.get("done", False))
    assert CircuitBreaker(stack.client).get_state().value == "OPEN"
    assert len(done["items"]) == 18, "the second round's ticks are kept through its suspensions and the kill"
    assert {item["tick"] for item in done["items"].values()} <= {"green", "yellow"}
    actions = [row.action for row in stack.rows(incident)]
    assert actions.count("CIRCUIT_BREAKER_RESET") == 2
    assert actions.count("RECOVERY_ROOT_CAUSE") == 2
    assert actions.count("RECOVERY_REOPENED") == 1
