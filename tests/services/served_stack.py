"""The deployments as they are served, with everything that a recovery needs, and ways to break it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import urlopen

import psutil
import redis

from breaker import CircuitBreaker
from console.auth.identities import Identities
from console.auth.permissions import Permission, Role
from console.auth.schema import upgrade
from ledger.ledger import Ledger
from ledger.queries import Filter
from ledger.record import AuditRow
from proofs.fork_server import Forked, ForkServer
from sandbox.prefect_server import PrefectServer
from tests.helpers import eventually

ROOT = Path(__file__).parents[2]
CONFIGURATION = """
redis_url = "{redis}"
state_dir = "{state}"
{database}
quiet_period = 60
[recovery]
watch = {watch}
watch_interval = 0.2
condition_deadline = 1
condition_interval = 0.3
[recovery.people]
bob = ["APPROVE_RECOVERY"]
cyd = ["RESET_CIRCUIT", "APPROVE_RECOVERY"]
[recovery.services.gateway]
url = "{service}"
"""

PEOPLE = {
    "ada": [Permission.RESET_CIRCUIT],
    "bob": [Permission.APPROVE_RECOVERY],
    "cyd": [Permission.RESET_CIRCUIT, Permission.APPROVE_RECOVERY],
    "eve": [Permission.VIEW_CIRCUIT],
}
"""Who may do what by their tokens. The configuration names only those who answer in the orchestrator."""


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


class ServedStack:
    """`python -m services.serve` on a Prefect server of its own.

    `client` and `ledger_url` lead to Redis and the database directly. What is served finds Redis at `redis_url`, the
    database at `database_url` and the orchestrator at `api_url`, which may lead through something that breaks them.
    """

    def __init__(
        self,
        home: Path,
        client: redis.Redis,
        fork_server: ForkServer,
        *,
        redis_url: str,
        service: Service,
        prefect: PrefectServer,
        ledger_url: str = "",
        database_url: str = "",
        api_url: str = "",
        watch: float = 4,
        more: str = "",
    ) -> None:
        self.client = client
        self._fork_server = fork_server
        self.service = service
        self.prefect = prefect
        self._tokens: dict[str, str] = {}
        self.ledger_url = ledger_url or f"sqlite:///{home / 'state' / 'audit.db'}"
        # The state directory's own file is made when it is missing; one that is configured is not.
        configured = database_url or ledger_url
        configuration = home / "breaker.toml"
        configuration.write_text(
            CONFIGURATION.format(
                redis=redis_url,
                state=home / "state",
                database=f'database_url = "{configured}"' if configured else "",
                service=service.url,
                watch=watch,
            )
            + more,
            encoding="utf-8",
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
        self.environment: Mapping[str, str] = {
            **kept,
            **prefect.environment,
            "PREFECT_API_URL": api_url or prefect.api_url,
            "BREAKER_CONFIG": str(configuration),
            "HOME": str(home),
            "COLUMNS": "200",
        }
        self._log = (home / "serve.log").open("ab")
        self.serving: Forked | None = None

    def serve(self) -> None:
        self.serving = self._fork_server.start(
            "services.serve", env=self.environment, cwd=ROOT, stdout=self._log, stderr=self._log, children=True
        )

    def kill_serving(self) -> None:
        """The worker and all that it started, at once, as when a machine dies."""
        assert self.serving is not None
        for child in psutil.Process(self.serving.pid).children(recursive=True):
            child.kill()
        self.serving.kill()
        self.serving.wait()

    def recovery_processes(self) -> list[psutil.Process]:
        """Those that run the recovery now; none while it waits for people."""
        assert self.serving is not None
        flow_run = self.state().get("flow_run_id", "").replace("-", "")
        found = []
        for child in psutil.Process(self.serving.pid).children(recursive=True):
            try:
                run = child.environ().get("PREFECT__FLOW_RUN_ID", "")
            except psutil.Error:  # it ended meanwhile
                continue
            if flow_run and run.replace("-", "") == flow_run:
                found.append(child)
        return found

    def cli(self, *arguments: str, person: str = "") -> subprocess.CompletedProcess[str]:
        """As whoever runs the tests, or as one of PEOPLE by their token."""
        token = {"BREAKER_TOKEN": self._token_of(person)} if person else {}
        return self._fork_server.run("cli", *arguments, env={**self.environment, **token}, cwd=ROOT, timeout=60)

    def _token_of(self, person: str) -> str:
        if person not in self._tokens:
            ledger = Ledger.connect(self.ledger_url)
            upgrade(ledger)
            identities = Identities(ledger)
            identities.users.add(person, Role.RISK_MANAGER, "correct horse battery")
            self._tokens[person], _ = identities.tokens.create(person, "tests", PEOPLE[person], 1)
            ledger.close()
        return self._tokens[person]

    def state(self) -> dict[str, Any]:
        raw = self.client.get("circuit_breaker:recovery")
        return json.loads(raw) if isinstance(raw, bytes) else {}

    def wait_until(
        self, what: str, condition: Callable[[dict[str, Any]], bool], within: float = 90, every: float = 0.05
    ) -> dict[str, Any]:
        def reached() -> list[dict[str, Any]]:
            state = self.state()
            return [state] if condition(state) else []

        return eventually(reached, lambda: f"{what}; {self.state()}", within=within, every=every)[0]

    def waits_for(self, form: str, incident: str, round_: int = 1) -> None:
        """The picture says so, and the orchestrator has the run suspended."""
        state = self.wait_until(
            f"waiting for {form}",
            lambda s: (s.get("waiting_for"), s.get("incident_id"), s.get("round")) == (form, incident, round_),
        )
        address = f"{self.prefect.api_url}/flow_runs/{state['flow_run_id']}"
        # Asking the orchestrator more often would keep it from its work.
        self.wait_until(
            "suspended", lambda _: json.load(urlopen(address, timeout=5))["state"]["type"] == "PAUSED", every=0.5
        )

    def answered(self, person: str, *arguments: str) -> None:
        outcome = self.cli("recover", "answer", *arguments, person=person)
        assert outcome.returncode == 0, outcome.stderr

    def refused(self, person: str, *arguments: str) -> str:
        outcome = self.cli("recover", "answer", *arguments, person=person)
        assert outcome.returncode == 1, outcome.stderr
        return outcome.stderr

    def rows(self, incident: str) -> list[AuditRow]:
        """Oldest first."""
        ledger = Ledger.connect(self.ledger_url)
        rows = ledger.query(Filter(incident_id=incident), limit=500).rows
        ledger.close()
        return list(reversed(rows))

    def trip(self, operator: str) -> str:
        assert self.cli("trip", "--reason", "quotes look frozen", "--operator", operator).returncode == 0
        return str(CircuitBreaker(self.client).get_status().incident_id)
