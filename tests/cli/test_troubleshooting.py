"""Each case of docs/how-to/troubleshooting.md, reproduced: what answers says what the table says it does."""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from prefect.settings import PREFECT_API_URL, temporary_settings

from breaker import CircuitBreaker
from breaker.gate import Gate, Topology
from breaker.pending_trips import PendingTrip, PendingTrips
from cli.app import run as run_cli
from configuration.login import login_name
from configuration.settings import Settings, load_settings
from console.auth.identities import Identities
from console.auth.permissions import Permission, Role
from console.serve import prepare
from ledger.configured import open_ready_ledger, open_spool
from ledger.record import AuditRecord
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from services.exporter.exporter import Exporter
from services.exporter.server import MetricsServer
from tasks.doctor.monitoring import measure_verification
from tasks.verification.last_result import LastVerification, write_last
from tests.console.harness import Console
from tests.helpers import eventually
from tests.tasks.web import Answer, Asked, Web, prometheus

TABLE = Path(__file__).parents[2] / "docs" / "how-to" / "troubleshooting.md"
REASON = "Market conditions normalized, system verified"


class Desk:
    """A host with a configuration of its own, and somebody at its command line."""

    def __init__(self, directory: Path, redis_url: str, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]):
        self.directory = directory
        self._patch = patch
        self._capture = capture
        self._closing: list[Callable[[], None]] = []
        self.configure(
            redis_url=redis_url,
            redis_timeout="2",
            state_dir=str(directory / "state"),
            console__metrics_port=free_port(),
            recovery__two_person="false",
            recovery__people=json.dumps({login_name(): ["RESET_CIRCUIT"]}),
            recovery__watch="0.3",
            recovery__watch_interval="0.1",
            recovery__redis_latency="30",  # a busy machine's is not what is tried here
            recovery__database_latency="30",
        )

    def configure(self, **values: object) -> None:
        for name, value in values.items():
            self._patch.setenv(f"BREAKER_{name.upper()}", str(value))

    def run(self, *arguments: str) -> str:
        """All that the command said."""
        self._patch.setattr(sys, "argv", ["breaker", *arguments])
        self._patch.setattr(sys, "stdin", io.StringIO())
        self._capture.readouterr()
        try:
            self.status = run_cli()
        except SystemExit as left:
            self.status = int(left.code or 0)
        said = self._capture.readouterr()
        self.output = said.out
        return f"{said.out}\n{said.err}"

    def doctor(self) -> dict[str, str]:
        """What is to be done about each check that isn't green."""
        self.run("doctor", "--json")
        checks = json.loads(self.output)["checks"]
        return {check["name"]: check["problem"] for check in checks if check["colour"] != "green"}

    def serve_metrics(self) -> None:
        exporter = Exporter(load_settings())
        server = MetricsServer(exporter, "127.0.0.1", 0)
        thread = threading.Thread(target=server.serve)
        thread.start()
        self.configure(console__metrics_port=server.port)

        def close() -> None:
            server.stop()
            thread.join(10)
            exporter.close()

        self._closing.append(close)

    def close(self) -> None:
        for close in self._closing:
            close()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit log that is made once: migrating takes longer than most cases."""
    directory = tmp_path_factory.mktemp("prepared")
    prepare(Settings(state_dir=directory))
    return directory / "audit.db"


@pytest.fixture
def desk(
    tmp_path: Path,
    prepared: Path,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Desk]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state").mkdir()
    shutil.copy(prepared, tmp_path / "state")
    made = Desk(tmp_path, redis_server.url, monkeypatch, capsys)
    with temporary_settings({PREFECT_API_URL: None}):
        yield made
    made.close()


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        yield server


@pytest.fixture
def breaker(redis_client: redis.Redis) -> CircuitBreaker:
    made = CircuitBreaker(redis_client)
    made.initialize_state()
    return made


def answers(case: str) -> list[str]:
    """What the table says of a case, as patterns; each is one row."""
    found, now = [], ""
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 3 and not cells[0].startswith(("---", "case")):
            now = cells[0] or now
            if now == case:
                words = re.fullmatch(r"(`+)(.*?)\1", cells[2])
                assert words, line
                found.append(".*?".join(re.escape(part.strip()) for part in words[2].split("…")))
    return found


def all_cases() -> set[str]:
    rows = [line.strip("|").split("|")[0].strip() for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    return {row for row in rows if row and not row.startswith(("---", "case"))}


def holds(case: str, *said: str) -> None:
    """That each answer was what the table says of the case, row by row."""
    patterns = answers(case)
    assert len(patterns) == len(said), case
    for pattern, text in zip(patterns, said, strict=True):
        assert re.search(pattern, " ".join(text.split())), f"{pattern!r} is not in {text!r}"


def test_every_case_of_the_table_is_reproduced_here() -> None:
    calls = [node for node in ast.walk(ast.parse(Path(__file__).read_text())) if isinstance(node, ast.Call)]
    reproduced = {ast.literal_eval(call.args[0]) for call in calls if ast.unparse(call.func) == "holds"}
    assert reproduced == all_cases()


# --- the runbook's ----------------------------------------------------------------------------------------------------


def test_a_second_reset_within_a_minute(desk: Desk, breaker: CircuitBreaker) -> None:
    breaker.trip("MANUAL")
    assert desk.run("reset", "--reason", REASON, "--acknowledge") and desk.status == 0
    breaker.trip("MANUAL")
    refused = desk.run("reset", "--reason", REASON, "--acknowledge")
    assert desk.status == 1
    holds('"Rate limit exceeded" on reset', refused, desk.doctor()["reset-rate-limit"])


def test_a_metrics_server_that_does_not_run(desk: Desk, breaker: CircuitBreaker) -> None:
    holds("CB verification failed: metrics server not running", desk.doctor()["exporter"])
    assert desk.status == 1
    desk.serve_metrics()
    assert "exporter" not in desk.doctor()


def test_a_redis_that_is_away(desk: Desk, own_server: EmbeddedRedis) -> None:
    desk.configure(redis_url=own_server.url)
    CircuitBreaker(redis.Redis.from_url(own_server.url)).initialize_state()
    desk.serve_metrics()
    own_server.stop()
    desk.configure(redis_timeout=0.3)
    found = desk.doctor()
    assert desk.status == 4
    holds("CB verification failed: Redis connectivity", found["redis"], found["exporter"])
    assert found["redis/settings"] == "Not looked at, as redis is away: mend that first."


def test_a_state_that_is_missing(desk: Desk) -> None:
    said = desk.run("status")
    assert desk.status == 4
    found = desk.doctor()
    assert desk.status == 4
    holds("CB verification failed: state missing from Redis", said + found["state"])
    for text in (said, found["state"]):
        assert "breaker init" in text
    desk.run("init")
    assert "state" not in desk.doctor()


def test_a_prometheus_that_does_not_scrape(desk: Desk, breaker: CircuitBreaker, web: Web) -> None:
    desk.configure(recovery__prometheus_url=web.url)
    web.answering = prometheus({})
    holds("CB verification failed: Prometheus does not scrape", desk.doctor()["prometheus"])
    web.answering = prometheus({"cb_staleness_seconds": [999999.0]})
    assert "CBVerificationFailed" in desk.doctor()["prometheus"]
    web.answering = prometheus({"cb_staleness_seconds": [0.0]})
    assert "prometheus" not in desk.doctor()


def test_a_reset_of_what_is_open(desk: Desk, breaker: CircuitBreaker) -> None:
    refused = desk.run("reset", "--reason", REASON, "--acknowledge")
    assert desk.status == 1
    holds('Reset blocked with "Not TRIPPED"', refused)


def test_somebody_without_the_permission(desk: Desk, breaker: CircuitBreaker) -> None:
    with Console(load_settings()) as console:
        console.identities.users.add("vera", Role.VIEWER, "correct horse battery")
        text, _ = console.identities.tokens.create("vera", "x", [Permission.VIEW_CIRCUIT], 1)
        asked = {"reason": REASON, "acknowledge": True}
        headers = {"Authorization": f"Bearer {text}"}
        answer = httpx.post(f"{console.url}/api/v1/circuit-breaker/trip", json=asked, headers=headers)
        assert answer.status_code == 403
        holds("RBAC violation on trip or reset", answer.json()["detail"])
        Identities(console.ledger).users.set_role("vera", Role.OPERATOR)
        text, _ = console.identities.tokens.create("vera", "x", [Permission.TRIP_CIRCUIT], 1)
        headers = {"Authorization": f"Bearer {text}"}
        assert httpx.post(f"{console.url}/api/v1/circuit-breaker/trip", json=asked, headers=headers).is_success


# --- and what else happens --------------------------------------------------------------------------------------------


def test_a_rate_limit_without_an_end(desk: Desk, breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    redis_client.set("circuit_breaker:reset_rate_limit", "1")
    holds("the rate limit never ends", desk.doctor()["reset-rate-limit"])


def test_a_state_written_by_hand(desk: Desk, redis_client: redis.Redis) -> None:
    redis_client.set("circuit_breaker:state", '{"state":"TRIPPED","trip_reason":"EMERGENCY_MANUAL"}')
    holds("state written by hand", desk.doctor()["epoch"])


def test_a_state_that_is_no_json(desk: Desk, redis_client: redis.Redis) -> None:
    redis_client.set("circuit_breaker:state", "OPEN")
    holds("state that is no JSON", desk.run("status") + desk.doctor()["state"])


def test_a_quiet_period_without_an_end(desk: Desk, redis_client: redis.Redis) -> None:
    for_ever = {"state": "QUIET_PERIOD", "quiet_until": "2126-01-01T00:00:00Z", "epoch": 7}
    redis_client.set("circuit_breaker:state", json.dumps(for_ever))
    holds("stuck in QUIET_PERIOD", desk.doctor()["trading"])


def test_trading_that_was_halted(desk: Desk, breaker: CircuitBreaker) -> None:
    breaker.trip("MANUAL", tripped_by="ada")
    holds("nothing trades, and nobody knows why", desk.doctor()["trading"])


def test_a_redis_that_refuses_what_is_needed(desk: Desk, own_server: EmbeddedRedis) -> None:
    client: Any = redis.Redis.from_url(own_server.url)
    CircuitBreaker(client).initialize_state()
    client.execute_command("ACL", "SETUSER", "narrow", "on", ">secret", "~*", "&*", "+@all", "-config", "-role")
    desk.configure(redis_url=own_server.url.replace("://", "://narrow:secret@"))
    found = desk.doctor()
    holds("Redis refuses what engines need", found["redis/gate"])
    holds("a hosted Redis that refuses `CONFIG`", found["redis/commands"])


def test_gates_that_ask_for_a_comparison_that_nobody_makes(desk: Desk, own_server: EmbeddedRedis) -> None:
    CircuitBreaker(redis.Redis.from_url(own_server.url)).initialize_state()
    desk.configure(redis_url=own_server.url)
    with Gate(own_server.url, topology=Topology.single(compared=True)):
        eventually(lambda: redis.Redis.from_url(own_server.url).zcard("circuit_breaker:gates"))
        holds("gates that ask for `compared` stay closed", desk.doctor()["redis/compared"])


def test_a_redis_that_would_lose_the_state(desk: Desk, own_server: EmbeddedRedis) -> None:
    client = redis.Redis.from_url(own_server.url)
    CircuitBreaker(client).initialize_state()
    desk.configure(redis_url=own_server.url)
    before = desk.doctor()
    assert "redis" not in before and "redis/settings" not in before
    client.config_set("appendonly", "no")
    client.config_set("save", "")
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    found = desk.doctor()
    holds("Redis keeps nothing on disk", found["redis"])
    holds("Redis may evict the state", found["redis/settings"])


def test_a_trip_that_redis_was_not_told_of(desk: Desk, breaker: CircuitBreaker) -> None:
    pending = PendingTrips(load_settings().pending_trips_dir)
    pending.save(PendingTrip(reason="MANUAL", tripped_by="ada", source="cli"))
    holds("a trip that Redis was not told of", desk.doctor()["pending-trips"])
    desk.run("status")
    assert not breaker.is_tripped(), "reading makes nothing"
    desk.run("audit", "drain")
    assert "pending-trips" not in desk.doctor()
    assert breaker.is_tripped()


def test_a_database_that_is_away(desk: Desk, breaker: CircuitBreaker) -> None:
    desk.configure(database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/audit")
    found = desk.doctor()
    holds("the audit log's database is away", found["ledger"])
    assert found["chain"] == "Not looked at, as ledger is away: mend that first."
    assert "state" not in found, "the state itself was read"


def test_a_database_of_another_version(desk: Desk, breaker: CircuitBreaker) -> None:
    desk.configure(database_url=f"sqlite:///{desk.directory / 'new.db'}")
    holds("the audit log's database is of another version", desk.doctor()["ledger"])


def test_records_that_wait_on_this_host(desk: Desk, breaker: CircuitBreaker) -> None:
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    open_spool(load_settings()).add([AuditRecord(action="X", source="cli", timestamp=long_ago)])
    holds("records wait on this host", desk.doctor()["queues/spool"])
    desk.run("audit", "drain")
    assert "queues/spool" not in desk.doctor()


def test_a_row_that_was_changed(desk: Desk, breaker: CircuitBreaker) -> None:
    ledger = open_ready_ledger(load_settings())
    ledger.append([AuditRecord(action="X", source="cli") for _ in range(3)])
    with ledger.engine.connect() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_log_no_update")
        connection.exec_driver_sql("UPDATE audit_log SET user_id = 'mallory' WHERE seq = 2")
        connection.commit()
    ledger.close()
    holds("a row of the audit log was changed", desk.doctor()["chain"])


def test_a_venue_that_refuses_the_credentials(desk: Desk, breaker: CircuitBreaker, web: Web) -> None:
    web.answering = lambda _: Answer(401, json.dumps({"message": "request is not authorized"}))
    desk.configure(
        accounts__alpha__base_url=web.url, accounts__alpha__key_id="k", accounts__alpha__secret_key="the secret"
    )
    found = desk.doctor()
    holds("the venue refuses the credentials", found["venue/ALPHA"])
    holds("nobody monitors an account", found["monitor"])
    assert "the secret" not in str(found)


def test_a_prefect_that_is_down(desk: Desk, breaker: CircuitBreaker) -> None:
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        holds("Prefect is down", desk.doctor()["prefect"])


def test_deployments_that_nobody_serves(desk: Desk, breaker: CircuitBreaker, web: Web) -> None:
    def empty(asked: Asked) -> Answer:
        known = {"/api/health": "true", "/api/deployments/filter": "[]", "/api/flow_runs/count": "0"}
        return Answer(body=known[asked.path]) if asked.path in known else Answer(404)

    web.answering = empty
    with temporary_settings({PREFECT_API_URL: f"{web.url}/api"}):
        found = desk.doctor()
        holds("nobody serves the deployments", found["deployments"])
        holds("nobody announces trips or watches resets", found["watches"])


async def test_a_verification_that_has_stopped(desk: Desk, breaker: CircuitBreaker) -> None:
    await write_last(load_settings(), LastVerification(datetime.now(UTC) - timedelta(hours=1)))
    holds("the scheduled verification has stopped", (await measure_verification(load_settings())).problem)


def test_a_key_that_is_misspelt(desk: Desk) -> None:
    (desk.directory / "breaker.toml").write_text("[recovery]\ntwo_persons = true\n")
    said = desk.run("doctor")
    assert desk.status == 2
    holds("a key of the configuration is misspelt", said)


# --- the command itself -----------------------------------------------------------------------------------------------


def test_a_table_for_people_and_no_problem_over_several_lines(desk: Desk, breaker: CircuitBreaker) -> None:
    desk.serve_metrics()
    shown = desk.run("doctor")
    assert desk.status == 0, shown
    assert re.search(r"● green +redis ", shown)
    assert re.search(r"▲ yellow +standby +not running", shown)
    assert re.search(r"^0 red, \d+ yellow, \d+ green", shown, re.MULTILINE)
    for problem in desk.doctor().values():
        assert "\n" not in problem and problem.endswith(".")


def test_looking_changes_nothing(desk: Desk, breaker: CircuitBreaker, redis_client: redis.Redis) -> None:
    def everything() -> tuple[Any, ...]:
        ledger = open_ready_ledger(load_settings())
        try:
            kept = sorted(path.name for path in (desk.directory / "state").iterdir() if "audit.db" not in path.name)
            return redis_client.dbsize(), redis_client.get("circuit_breaker:state"), ledger.head(), kept
        finally:
            ledger.close()

    before = everything()
    desk.doctor()
    assert everything() == before
