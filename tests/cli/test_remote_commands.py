"""The command line through a console: the same commands, held to the permissions of the token's user."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from prefect.context import refresh_global_settings_context
from pydantic import SecretStr

from breaker import CircuitBreaker
from configuration.accounts import AccountSettings
from configuration.settings import KillSettings, Settings
from console.auth.permissions import Role
from proofs.fork_server import ForkServer
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchangeThread
from tests.cli.conftest import ROOT, RunCli
from tests.cli.terminal import CTRL_C, Terminal
from tests.console.harness import Console

GOOD_REASON = "cause found and fixed, book checked"


@pytest.fixture
def console(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    exchange: PaperExchangeThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Console]:
    CircuitBreaker(redis_client).initialize_state()
    account = AccountSettings(base_url=exchange.url, key_id=SecretStr("key"), secret_key=SecretStr("secret"))
    kill = KillSettings(settle=0.2, guard=0.5, poll_interval=0.05, record_wait=0.1, orchestrator_wait=0.5)
    settings = Settings(
        redis_url=SecretStr(redis_server.url), state_dir=tmp_path / "console", accounts={"ALPHA": account}, kill=kill
    )
    with Console(settings) as running:
        yield running


@pytest.fixture
def as_role(console: Console, environment: dict[str, str]) -> None:
    """This host knows the console, and nothing else: there is no configuration, and no Redis where one is expected."""
    environment["BREAKER_URL"] = console.url
    environment["BREAKER_REDIS_URL"] = f"redis://127.0.0.1:{free_port()}"


@pytest.fixture
def orchestrator_of_the_console() -> Iterator[None]:
    """There is none, rather than one that refuses, which is red at a reset."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        refresh_global_settings_context()
        yield
    refresh_global_settings_context()


def sign(console: Console, environment: dict[str, str], role: Role) -> None:
    environment["BREAKER_TOKEN"] = console.api(role).headers["authorization"].removeprefix("Bearer ")


@pytest.mark.usefixtures("as_role", "orchestrator_of_the_console")
def test_each_command_needs_the_users_permission(
    console: Console, environment: dict[str, str], breaker_cli: RunCli, redis_client: redis.Redis
) -> None:
    breaker = CircuitBreaker(redis_client)
    sign(console, environment, Role.VIEWER)
    assert "OPEN" in breaker_cli("status").stdout
    denied = breaker_cli("trip", "--reason", "prices look wrong, halting")
    assert (denied.returncode, breaker.get_state().value) == (1, "OPEN")
    assert "TRIP_CIRCUIT" in denied.stderr and "the_viewer" in denied.stderr

    sign(console, environment, Role.OPERATOR)
    tripped = breaker_cli("trip", "--reason", "prices look wrong, halting", "--json")
    assert (tripped.returncode, json.loads(tripped.stdout)["state"]) == (0, "TRIPPED")
    assert breaker.get_status().tripped_by == "the_operator"
    assert breaker_cli("reset", "--reason", GOOD_REASON, "--acknowledge").returncode == 1
    assert breaker.get_state().value == "TRIPPED"

    sign(console, environment, Role.RISK_MANAGER)
    assert breaker_cli("reset", "--reason", GOOD_REASON).returncode == 2, "not acknowledged"
    refused = breaker_cli("reset", "--reason", GOOD_REASON, "--acknowledge")
    assert refused.returncode == 1 and "40 orders are working in ALPHA" in refused.stderr
    why = ("--override", "these orders rest at the venue on purpose")
    reset = breaker_cli("reset", "--reason", GOOD_REASON, "--acknowledge", *why)
    assert (reset.returncode, breaker.get_status().reset_by) == (0, "the_risk_manager"), reset.stderr
    assert breaker_cli("reset", "--reason", GOOD_REASON, "--acknowledge").returncode == 1, "not tripped any more"
    events = [json.loads(line) for line in breaker_cli("history", "--json").stdout.splitlines()]
    assert [(event["transition"], event["source"]) for event in events[:2]] == [("RESET", "api"), ("TRIP", "api")]


@pytest.mark.usefixtures("as_role")
def test_a_scope_that_is_typed_is_named_and_doubted_by_the_console(
    console: Console, environment: dict[str, str], breaker_cli: RunCli, redis_client: redis.Redis
) -> None:
    sign(console, environment, Role.OPERATOR)
    alpha = breaker_cli("trip", "--scope", "account:alpha", "--reason", "fills of nobody, halting")
    assert alpha.returncode == 0 and "TRIPPED  account:ALPHA" in alpha.stdout and "WARNING" not in alpha.stderr
    assert CircuitBreaker(redis_client, "account:ALPHA").get_state().value == "TRIPPED"
    assert "TRIPPED  account:ALPHA" in breaker_cli("status", "--scope", "account:alpha").stdout
    assert "TRIP " in breaker_cli("history", "--scope", "account:alpha").stdout
    typo = breaker_cli("trip", "--scope", "account:gamma", "--reason", "fills of nobody, halting")
    assert typo.returncode == 0 and "TRIPPED  account:gamma" in typo.stdout
    assert "WARNING: no account of the name gamma is configured (there are: ALPHA)" in typo.stderr

    visitor = console.visitor(Role.OPERATOR)
    page = visitor.submit(
        "/circuit-breaker/trip?scope=account%3AALPHA",
        {"reason": "fills of nobody, halting", "acknowledge": "yes"},
        page="/circuit-breaker/trip?scope=account:alpha",
    )
    assert page.url.params["scope"] == "account:ALPHA" and "no gate may be watching" not in page.text
    assert (
        "there are: ALPHA): no gate may be watching account:gamma"
        in visitor.get("/circuit-breaker/trip?scope=account:gamma").text
    )


@pytest.mark.usefixtures("as_role")
def test_the_kill_switch_is_followed_to_flat(
    console: Console,
    environment: dict[str, str],
    breaker_cli: RunCli,
    exchange: PaperExchangeThread,
    redis_client: redis.Redis,
) -> None:
    sign(console, environment, Role.VIEWER)
    assert breaker_cli("kill", "--yes").returncode == 1
    assert not exchange.report()["is_flat"]
    sign(console, environment, Role.OPERATOR)
    other = breaker_cli("kill", "--yes", "--account", "BETA")
    assert other.returncode == 2 and "BETA" in other.stderr and "ALPHA" in other.stderr
    assert CircuitBreaker(redis_client).get_state().value == "OPEN", "an unknown account changes nothing"
    killed = breaker_cli("kill", "--yes", "--reason", "x", "--account", "alpha", "--operator", "olga")
    *_, verdict, cost = killed.stdout.splitlines()
    assert (killed.returncode, verdict[:4]) == (0, "FLAT"), killed.stderr
    assert cost.startswith("ALPHA: slippage 0.00 USD (0.0 bp of ")
    assert "0 of 12 positions" in killed.stdout
    assert exchange.report()["is_flat"]
    assert len(killed.stderr.splitlines()) == 2 and "--operator is not used" in killed.stderr
    assert "breaker: through the console at http" in killed.stderr
    assert CircuitBreaker(redis_client).get_status().tripped_by == "the_operator"


@pytest.mark.usefixtures("as_role")
def test_make_kill_switch_works_as_the_runbook_has_it(
    console: Console, environment: dict[str, str], tmp_path: Path, redis_client: redis.Redis
) -> None:
    """The Makefile's own command, in a directory where `.venv/bin/breaker` is this checkout's."""
    sign(console, environment, Role.OPERATOR)
    command = tmp_path / ".venv/bin/breaker"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cli "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    (command.parents[1] / ".ready").touch()
    asked = ["make", "-f", str(ROOT / "Makefile"), "-o", ".venv/.ready", "kill-switch"]
    asked += ["OPERATOR=olga", "REASON=it's on fire", "YES=1"]
    outcome = subprocess.run(
        asked, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (outcome.returncode, "FLAT" in outcome.stdout) == (0, True), outcome.stderr
    status = CircuitBreaker(redis_client).get_status()
    assert (status.tripped_by, status.trip_reason) == ("the_operator", "KILL_SWITCH")
    assert status["trip_details"]["reason"] == "it's on fire"


@pytest.mark.usefixtures("as_role")
def test_a_kill_that_is_not_confirmed_has_halted(
    fork_server: ForkServer,
    console: Console,
    environment: dict[str, str],
    breaker_cli: RunCli,
    exchange: PaperExchangeThread,
) -> None:
    sign(console, environment, Role.OPERATOR)
    outcome = breaker_cli("kill")
    assert outcome.returncode == 2 and "TRIPPED" in outcome.stderr
    with closing(Terminal(fork_server, environment, "kill")) as left:
        left.wait_for("Type FLATTEN")
        left.press(CTRL_C)
        assert left.ended() == 3 and "not confirmed; the state is TRIPPED" in left.seen
    assert not exchange.report()["is_flat"]


@pytest.mark.parametrize("command", ["init", "audit verify", "user add eve"])
def test_what_is_local_only_is_refused(breaker_cli: RunCli, environment: dict[str, str], command: str) -> None:
    environment["BREAKER_URL"] = "https://console.example"
    outcome = breaker_cli(*command.split())
    assert (outcome.returncode, outcome.stdout, len(outcome.stderr.splitlines())) == (2, "", 1)
    assert "is local only" in outcome.stderr and "Unset BREAKER_URL" in outcome.stderr


def test_an_empty_variable_names_no_console(
    environment: dict[str, str], breaker_cli: RunCli, configured: redis.Redis
) -> None:
    environment["BREAKER_URL"] = ""
    assert breaker_cli("trip").returncode == 0
    assert CircuitBreaker(configured).is_tripped()


def test_a_console_that_falls_silent_may_have_done_it(environment: dict[str, str], breaker_cli: RunCli) -> None:
    """It takes the request and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65_536)

        taken = threading.Thread(target=hang_up)
        taken.start()
        environment |= {"BREAKER_URL": f"http://127.0.0.1:{listening.getsockname()[1]}", "BREAKER_TOKEN": "t"}
        outcome = breaker_cli("trip")
        taken.join(10)
    assert (outcome.returncode, outcome.stdout, len(outcome.stderr.splitlines())) == (4, "", 2)
    assert outcome.stderr.startswith("breaker: through the console at http://127.0.0.1:")
    assert "may have done it" in outcome.stderr and "nothing was asked" not in outcome.stderr


@pytest.mark.parametrize(
    ("url", "token", "status", "says"),
    [
        ("http://console.example", "t", 2, "has to be https"),
        ("console", "t", 2, "no http(s) address"),
        ("http://127.0.0.1:{port}", "", 2, "breaker token create"),
        ("http://127.0.0.1:{port}", "t", 4, "nothing was asked of it. Halting works without the console: unset"),
    ],
)
def test_what_cannot_be_used_says_so(
    environment: dict[str, str], breaker_cli: RunCli, url: str, token: str, status: int, says: str
) -> None:
    environment |= {"BREAKER_URL": url.format(port=free_port()), "BREAKER_TOKEN": token}
    outcome = breaker_cli("trip")
    assert (outcome.returncode, outcome.stdout) == (status, "")
    assert says in outcome.stderr


@pytest.mark.usefixtures("as_role")
def test_a_token_that_is_none_is_refused(environment: dict[str, str], breaker_cli: RunCli) -> None:
    environment["BREAKER_TOKEN"] = "made up"
    outcome = breaker_cli("status")
    assert outcome.returncode == 1 and "valid token" in outcome.stderr
