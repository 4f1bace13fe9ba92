"""A recovery from its trip to OPEN, on the deployments as they are served: real orchestrator, real kills."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from prefect.context import refresh_global_settings_context

from breaker import CircuitBreaker
from breaker.rules import Rules
from configuration.settings import load_settings
from console.auth.permissions import Role
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from tests.conftest import NewPrefect
from tests.console.harness import Console
from tests.services.served_stack import ServedStack, Service

CAUSE = (
    "--root-cause",
    "the quote feed went stale after its failover",
    "--corrective-action",
    "feed pinned to the primary, alarm added",
)
REASON = ("--reason", "feed pinned, data checked, book is flat")


@contextmanager
def console_of(stack: ServedStack) -> Iterator[Console]:
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
def stack(
    tmp_path_factory: pytest.TempPathFactory, fork_server: ForkServer, new_prefect: NewPrefect
) -> Iterator[ServedStack]:
    home = tmp_path_factory.mktemp("stack")
    service = Service()
    with EmbeddedRedis(home / "redis") as server, new_prefect(home / "prefect") as prefect:
        client = redis.Redis.from_url(server.url)
        CircuitBreaker(client).initialize_state(by="tests")
        made = ServedStack(home, client, fork_server, redis_url=server.url, service=service, prefect=prefect)
        made.serve()
        yield made
        made.kill_serving()
    service.close()


@pytest.mark.timeout(300)
def test_promise_9_a_trip_starts_its_recovery_and_people_walk_it_to_open(stack: ServedStack) -> None:
    incident = stack.trip("ada")
    stack.waits_for("root-cause", incident)
    assert "at least 20" in stack.refused("bob", "--root-cause", "dunno")
    assert "eve has no APPROVE_RECOVERY" in stack.refused("eve", *CAUSE)
    stack.answered("bob", *CAUSE)
    stack.waits_for("approval", incident)

    # While it waits nothing of it runs: the worker and then the orchestrator may come and go.
    stack.kill_serving()
    stack.prefect.stop()
    stack.prefect.start()
    stack.prefect.wait()
    stack.serve()

    assert "bob has no RESET_CIRCUIT" in stack.refused("bob", *REASON, "--acknowledge")
    assert "ada tripped the breaker" in stack.refused("ada", *REASON, "--acknowledge")
    assert "characters" in stack.refused("cyd", "--reason", "fine", "--acknowledge")
    assert "not acknowledged" in stack.refused("cyd", *REASON)
    Rules(stack.client).record_equity("100")
    Rules(stack.client).record_equity("90")
    assert "drawdown is 10" in stack.refused("cyd", *REASON, "--acknowledge")
    Rules(stack.client).rebase_equity("90")
    stack.client.set("circuit_breaker:reset_rate_limit", "1", px=120_000)
    said = stack.cli("recover", "answer", *REASON, "--acknowledge", person="cyd")
    assert "Rate limit exceeded" in said.stderr or "not taken yet" in said.stdout
    stack.wait_until("the refusal of a second reset", lambda s: "Rate limit exceeded" in s.get("problem", ""))
    stack.client.delete("circuit_breaker:reset_rate_limit")
    stack.waits_for("approval", incident)
    stack.answered("cyd", *REASON, "--acknowledge")
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
def test_promise_9_red_during_the_watch_trips_again_and_a_killed_watch_goes_on(stack: ServedStack) -> None:
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
    stack.answered("bob", *CAUSE)
    stack.waits_for("approval", incident, round_=2)
    stack.client.delete("circuit_breaker:reset_rate_limit")
    stack.answered("cyd", *REASON, "--acknowledge")
    stack.wait_until("watching", lambda s: s.get("phase") == "watching")
    (process,) = stack.recovery_processes()
    process.kill()
    done = stack.wait_until("recovered", lambda s: s.get("done", False))
    assert CircuitBreaker(stack.client).get_state().value == "OPEN"
    assert len(done["items"]) == 18, "the second round's ticks are kept through its suspensions and the kill"
    assert {item["tick"] for item in done["items"].values()} <= {"green", "yellow"}
    actions = [row.action for row in stack.rows(incident)]
    assert actions.count("CIRCUIT_BREAKER_RESET") == 2
    assert actions.count("RECOVERY_ROOT_CAUSE") == 2
    assert actions.count("RECOVERY_REOPENED") == 1
