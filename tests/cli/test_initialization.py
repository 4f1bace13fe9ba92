"""`breaker init` after Redis lost its state: what was tripped by the ledger's word is created TRIPPED."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import redis

from breaker import CircuitBreaker, State
from configuration.login import login_name
from sandbox.embedded_redis import EmbeddedRedis
from tests.cli.conftest import MAY_RESET, RunCli, WriteConfiguration
from tests.cli.test_circuit_commands import GOOD_REASON, state_of

WHY = "the ledger's disk is gone, the book was checked"
PEOPLE = f"""
[recovery.people]
"{login_name()}" = ["RESET_CIRCUIT"]
grace = ["RESET_CIRCUIT"]
eve = ["APPROVE_RECOVERY"]
"""
Configure = Callable[[str], None]


@pytest.fixture
def configure(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, write_configuration: WriteConfiguration
) -> Configure:
    return lambda text: (write_configuration(f'redis_url = "{redis_server.url}"\n{text}'), None)[1]


@pytest.fixture
def without_ledger(configure: Configure, tmp_path: Path) -> Configure:
    """The ledger's database can't be opened; nothing was initialised."""
    return lambda text: configure(f'database_url = "sqlite:///{tmp_path}/no/such/folder/audit.db"\n{text}')


def actions(breaker_cli: RunCli, **wanted: object) -> list[dict[str, object]]:
    breaker_cli("audit", "drain")
    rows = [json.loads(line) for line in breaker_cli("audit", "--json").stdout.splitlines()]
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def test_a_breaker_that_was_tripped_when_redis_was_flushed_is_initialised_tripped(
    configured: redis.Redis, breaker_cli: RunCli
) -> None:
    breaker_cli("init")
    breaker_cli("trip", "--reason", "prices look wrong", "--operator", "ada")
    incident = json.loads(breaker_cli("status", "--json").stdout)["incident_id"]
    configured.flushall()

    outcome = breaker_cli("init", "--operator", "bob")
    assert outcome.returncode == 0, outcome.stderr
    assert "TRIPPED" in outcome.stdout and "breaker recover --watch" in outcome.stdout
    status = json.loads(breaker_cli("status", "--json").stdout)
    assert (status["state"], status["trip_reason"], status["incident_id"]) == ("TRIPPED", "STATE_LOST", incident)
    assert "tripped by ada" in status["trip_details"]["reason"]

    [row] = [row for row in actions(breaker_cli, action="CIRCUIT_BREAKER_TRIP") if row["user_id"] == "bob"]
    assert "no reset has followed" in json.dumps(row["details"])
    configured.flushall()
    breaker_cli("init", "--force")
    assert state_of(configured) == "TRIPPED", "neither does --force, nor a second flush"


def test_a_quiet_period_that_is_not_over_is_initialised_tripped(configured: redis.Redis, breaker_cli: RunCli) -> None:
    breaker_cli("trip")
    assert CircuitBreaker(configured).reset("bob", GOOD_REASON).state is State.QUIET_PERIOD
    breaker_cli("audit", "drain")
    configured.flushall()
    breaker_cli("init")
    status = json.loads(breaker_cli("status", "--json").stdout)
    assert status["state"] == "TRIPPED" and "quiet period lasts until" in status["trip_details"]["reason"]


def test_a_breaker_that_was_open_when_redis_was_flushed_is_initialised_open(
    configured: redis.Redis, breaker_cli: RunCli
) -> None:
    breaker_cli("init")
    configured.flushall()
    assert breaker_cli("init").returncode == 0
    assert state_of(configured) == "OPEN"


def test_another_scope_has_its_own_last_word(configured: redis.Redis, breaker_cli: RunCli) -> None:
    breaker_cli("trip", "--scope", "account:ALPHA")
    configured.flushall()
    breaker_cli("init")
    breaker_cli("init", "--scope", "account:ALPHA")
    assert state_of(configured) == "OPEN"
    assert json.loads(configured.get("circuit_breaker:state:account:ALPHA") or b"{}")["state"] == "TRIPPED"


def test_what_waits_in_the_outbox_counts_too(configured: redis.Redis, breaker_cli: RunCli) -> None:
    """Somebody deleted the state alone, before the trip had reached the ledger."""
    breaker_cli("trip")
    [event] = cast("list[bytes]", configured.zrange("circuit_breaker:history", 0, -1))
    configured.flushall()
    configured.xadd("circuit_breaker:outbox", {"event": event})
    breaker_cli("init")
    assert state_of(configured) == "TRIPPED"


def test_a_ledger_that_cannot_be_asked_refuses_and_says_what_would_do_it(
    without_ledger: Configure, breaker_cli: RunCli, redis_client: redis.Redis
) -> None:
    without_ledger("")
    for arguments in ((), ("--force",)):
        outcome = breaker_cli("init", *arguments)
        assert outcome.returncode == 1
        assert "the ledger can't be asked" in outcome.stderr and "--second-person NAME" in outcome.stderr
        assert outcome.stderr.count("\n") == 2 and "Traceback" not in outcome.stderr
    assert redis_client.get("circuit_breaker:state") is None


def test_a_database_that_has_no_ledger_yet_is_to_be_given_one_and_not_done_without(
    configure: Configure, breaker_cli: RunCli, redis_client: redis.Redis, tmp_path: Path
) -> None:
    (tmp_path / "new.db").touch()
    configure(f'database_url = "sqlite:///{tmp_path}/new.db"\n')
    done = breaker_cli("init")
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("breaker: global is not initialised, and no new risk passes: sqlite:")
    assert "audit upgrade`, then this again" in said and "--force" not in said
    assert redis_client.get("circuit_breaker:state") is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--reason", WHY), "name the other one"),
        (("--reason", "too short"), "20 to 500 characters"),
        (("--reason", WHY, "--second-person", "ada"), "can't be both"),
        (("--reason", WHY, "--second-person", login_name()), "can't be both"),
        (("--reason", WHY, "--second-person", "eve"), "eve has no RESET_CIRCUIT"),
        (("--reason", WHY, "--second-person", "nobody"), "nobody has no RESET_CIRCUIT"),
    ],
)
def test_whoever_opens_without_the_ledger_has_to_be_two_with_a_reason(
    without_ledger: Configure, breaker_cli: RunCli, redis_client: redis.Redis, arguments: tuple[str, ...], says: str
) -> None:
    without_ledger(PEOPLE)
    outcome = breaker_cli("init", "--force", "--operator", "ada", *arguments)
    assert outcome.returncode == 2 and says in outcome.stderr
    assert redis_client.get("circuit_breaker:state") is None


def test_two_people_with_a_reason_open_without_the_ledger_and_that_is_recorded(
    without_ledger: Configure, configure: Configure, breaker_cli: RunCli, redis_client: redis.Redis
) -> None:
    without_ledger(PEOPLE)
    outcome = breaker_cli("init", "--force", "--operator", "ada", "--reason", WHY, "--second-person", "grace")
    assert outcome.returncode == 0, outcome.stderr
    assert state_of(redis_client) == "OPEN"
    configure("")  # the ledger is back
    [row] = actions(breaker_cli, action="INITIALIZED_WITHOUT_LEDGER")
    assert row["user_id"] == login_name(), "who acted; the other names were only typed"
    assert isinstance(row["details"], dict) and row["details"]["reason"] == WHY
    assert (row["details"]["claimed"], row["details"]["claimed_second_person"]) == ("ada", "grace")


def test_whoever_opens_without_the_ledger_has_to_have_the_permission_whomever_they_name(
    without_ledger: Configure, breaker_cli: RunCli, redis_client: redis.Redis
) -> None:
    without_ledger('[recovery.people]\ngrace = ["RESET_CIRCUIT"]\nada = ["RESET_CIRCUIT"]\n')
    outcome = breaker_cli("init", "--force", "--operator", "ada", "--reason", WHY, "--second-person", "grace")
    assert outcome.returncode == 2 and f"{login_name()} has no RESET_CIRCUIT" in outcome.stderr
    assert redis_client.get("circuit_breaker:state") is None


def test_one_person_is_enough_where_two_are_not_asked_for(
    without_ledger: Configure, breaker_cli: RunCli, redis_client: redis.Redis
) -> None:
    without_ledger(MAY_RESET)
    assert breaker_cli("init", "--force", "--reason", WHY).returncode == 0
    assert state_of(redis_client) == "OPEN"
