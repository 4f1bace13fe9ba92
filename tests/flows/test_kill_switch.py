"""The flow as people see it in Prefect, and the procedure without Prefect or Redis (promises 5 and 10)."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from breaker import CircuitBreaker
from breaker.uuid7 import uuid7
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchange
from sandbox.prefect_server import PrefectServer
from tests.conftest import NewPrefect, PrefectHome
from tests.flows.conftest import Start
from tests.helpers import BUSY, FULL, eventually
from tests.two_accounts import NOTHING, Venues

BOOK = "[book]\norders = 20\npositions = 8\n"
SLOW = BOOK + "[fills]\ndelay = 1.5\n"


def asked(prefect: PrefectServer, what: str, query: dict[str, Any]) -> list[dict[str, Any]]:
    answer = httpx.post(f"{prefect.api_url}/{what}/filter", json=query, timeout=10)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()
    return found


def flow_run(prefect: PrefectServer, incident: str, state: str) -> dict[str, Any]:
    """The run named after the incident, once it is in that state."""

    def runs() -> list[dict[str, Any]]:
        return asked(prefect, "flow_runs", {"flow_runs": {"name": {"any_": [f"kill-switch-{incident}"]}}})

    return eventually(lambda: [run for run in runs() if run["state_type"] == state], runs, every=0.1)[0]


def of_run(run: dict[str, Any]) -> dict[str, Any]:
    return {"flow_runs": {"id": {"any_": [run["id"]]}}}


def test_a_run_is_told_in_prefects_ui_and_a_second_one_acts_again(
    prefect: PrefectServer, paper: PaperExchange, start_kill: Start
) -> None:
    incident = uuid7()
    kill = start_kill(incident, book=BOOK, api=prefect.api_url, wait=15)
    result, end = kill.said("result"), kill.said("end")
    assert result["report"]["flat"] and paper.report()["is_flat"]
    assert end["missing"] == []

    run = flow_run(prefect, incident, "COMPLETED")
    assert run["state"]["message"].startswith("FLAT ")
    assert sorted(run["tags"]) == ["environment:unnamed", "kill-switch"]
    tasks = {task["name"] for task in asked(prefect, "task_runs", of_run(run))}
    assert {
        f"confirm-trip-{incident}",
        "snapshot-PAPER",
        "cancel-orders-PAPER",
        "flatten-positions-PAPER",
        "verify-flat-PAPER",
        "read-cost-PAPER",
        f"report-{incident}",
    } == tasks
    artifacts = {artifact["key"]: artifact for artifact in asked(prefect, "artifacts", of_run(run))}
    assert set(artifacts) == {
        "kill-switch-progress",
        "kill-switch-report",
        "kill-switch-accounts",
        "kill-switch-closes",
    }
    assert artifacts["kill-switch-report"]["data"].startswith("# Kill switch: FLAT")
    assert "a test \\| of &lt;reasons>" in artifacts["kill-switch-report"]["data"]
    assert artifacts["kill-switch-closes"]["data"].count("accepted") == 8
    assert "## What the exit cost\n\n**PAPER**: slippage 0.00 USD" in artifacts["kill-switch-report"]["data"]

    of_this_run = {"logs": {"flow_run_id": {"any_": [run["id"]]}}}
    logged = eventually(
        lambda: [log["message"] for log in asked(prefect, "logs", of_this_run) if "SNAPSHOT_TAKEN" in log["message"]]
    )
    assert "book=(see the audit log)" in logged[0]

    for symbol in ("AAPL", "MSFT"):
        paper.control("late-fill", {"symbol": symbol, "side": "buy", "qty": "3"})
    again = start_kill(incident, api=prefect.api_url, wait=15)
    second = again.said("result")["report"]
    assert second["flat"] and paper.report()["is_flat"]
    assert second["accounts"][0]["closes_sent"] == 2
    assert paper.report()["violations"] == []


def test_a_run_that_is_not_flat_failed_and_says_what_is_left(
    prefect: PrefectServer, paper: PaperExchange, start_kill: Start
) -> None:
    incident = uuid7()
    kill = start_kill(incident, book=BOOK + "[[halts]]\ncount = 1\n", api=prefect.api_url, wait=15, stuck_after=1.0)
    assert not kill.said("result")["report"]["flat"]
    (left,) = paper.report()["positions"]
    run = flow_run(prefect, incident, "FAILED")
    assert run["state"]["message"].startswith("NOT FLAT: PAPER: ")
    assert f"{left} (" in run["state"]["message"] and "trading is halted" in run["state"]["message"]


def test_with_prefect_refusing_connections_the_book_is_flat_at_once(paper: PaperExchange, start_kill: Start) -> None:
    kill = start_kill(uuid7(), book=BOOK, api=f"http://127.0.0.1:{free_port()}/api")
    result = kill.said("result")
    assert result["report"]["flat"] and paper.report()["is_flat"]
    assert result["report"]["no_orders_after"] < 2.0, "it waited for one who does not listen"
    (missing,) = result["report"]["missing"]
    assert missing.startswith("Prefect at http://127.0.0.1") and missing.endswith("refuses connections")
    assert kill.said("end", within=30)["missing"][1:] == [
        "Prefect did not record the run, as it still refuses connections"
    ]


@pytest.mark.parametrize("how", ["killed", pytest.param("hung", marks=pytest.mark.skipif(not FULL, reason="slow"))])
def test_with_prefect_gone_while_flattening_the_book_is_flat_and_the_result_is_told(
    how: str, new_prefect: NewPrefect, paper: PaperExchange, start_kill: Start, tmp_path: Path
) -> None:
    with new_prefect(tmp_path / "second") as server:
        assert server.pid is not None
        kill = start_kill(uuid7(), book=SLOW, api=server.api_url, wait=15, answers_within=2 if how == "hung" else 30)
        wait_for_closes(paper, 1)
        os.kill(server.pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        result = kill.said("result")
        assert result["report"]["flat"] and paper.report()["is_flat"]
        assert paper.report()["violations"] == []
        end = kill.said("end", within=30)
        assert any("Prefect" in missing for missing in end["missing"])
        assert end["after"] - result["after"] < 15 + BUSY


@pytest.mark.timeout(240)
def test_without_a_prefect_configured_it_starts_at_once_and_tells_a_temporary_one_afterwards(
    prefect_home: PrefectHome, paper: PaperExchange, start_kill: Start, tmp_path: Path
) -> None:
    home = prefect_home(tmp_path / "home")
    incident = uuid7()
    kill = start_kill(incident, book=BOOK, api=None, home=home, record_wait=150)
    result = kill.said("result")
    assert result["report"]["flat"] and paper.report()["is_flat"]
    assert result["after"] < 6 + BUSY
    assert kill.said("end", within=200)["missing"] == []
    kill.process.wait(timeout=30)
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        (state,) = database.execute("SELECT state_type FROM flow_run WHERE name = ?", [f"kill-switch-{incident}"])
        steps = {name for (name,) in database.execute("SELECT name FROM task_run")}
    assert state == ("COMPLETED",)
    assert {"flatten-positions-PAPER", "verify-flat-PAPER"} <= steps


def test_promise_10_with_prefect_and_redis_hanging_the_book_is_flat_and_both_are_named(
    paper: PaperExchange, start_kill: Start
) -> None:
    with socket.socket() as prefect, socket.socket() as redis:
        for silent in (prefect, redis):
            silent.bind(("127.0.0.1", 0))
            silent.listen()
        api = f"http://127.0.0.1:{prefect.getsockname()[1]}/api"
        redis_url = f"redis://127.0.0.1:{redis.getsockname()[1]}/0"
        kill = start_kill(uuid7(), book=BOOK, api=api, redis_url=redis_url, wait=1.0, record_wait=1.0, answers_within=2)
        report = kill.said("result")["report"]
        assert report["flat"] and paper.report()["is_flat"]
        assert report["flat_after"] < 8 + BUSY
        assert report["halted_after"] is None
        assert any("did not answer within 1 s" in missing for missing in report["missing"])
        assert any("the trip could not be confirmed" in missing for missing in report["missing"])
        assert kill.process.wait(timeout=30) == 0


def test_killed_while_flattening_and_started_again_it_ends_flat_without_a_second_close(
    paper: PaperExchange, start_kill: Start
) -> None:
    incident, api = uuid7(), f"http://127.0.0.1:{free_port()}/api"
    few = "enforce_available = false\n[book]\norders = 6\npositions = 4\n[fills]\ndelay = 3\n"
    first = start_kill(incident, book=few, api=api)
    wait_for_closes(paper, 4)
    first.process.kill()
    again = start_kill(incident, api=api, record_wait=1.0)
    assert again.said("result")["report"]["flat"]
    venue = paper.report()
    assert venue["is_flat"] and venue["violations"] == [] and venue["sign_changes"] == []
    assert sum(venue["closes"].values()) == 4


def wait_for_closes(paper: PaperExchange, number: int) -> None:
    eventually(lambda: sum(paper.report()["closes"].values()) >= number, every=0.02)


def test_a_deployments_scope_decides_what_is_touched(
    prefect: PrefectServer, redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path
) -> None:
    with Venues() as venues:
        configuration = tmp_path / "breaker.toml"
        configuration.write_text(
            f'redis_url = "{redis_server.url}"\nstate_dir = "{tmp_path / "state"}"\n'
            f"[kill]\npoll_interval = 0.05\nsettle = 0.2\nguard = 0.4\n{venues.sections()}"
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BREAKER_")}
        environment |= {"BREAKER_CONFIG": str(configuration), "PREFECT_API_URL": prefect.api_url}
        environment["PREFECT_HOME"] = str(tmp_path / "home")
        incident = uuid7()
        parameters = {"reason": "a test", "incident_id": incident, "scope": "account:BETA"}
        code = f"import asyncio, flows.kill_switch as k; asyncio.run(k.kill_switch(**{parameters}, return_state=True))"
        subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=environment, check=True, timeout=90
        )
        run = flow_run(prefect, incident, "COMPLETED")
        assert run["state"]["message"].startswith("FLAT ") and run["state"]["message"].endswith(": BETA")
        assert venues.untouched("ALPHA") and venues.left("BETA") == NOTHING
    assert CircuitBreaker(redis_client, "account:BETA").get_state().value == "TRIPPED"
    assert CircuitBreaker(redis_client).get_state().value != "TRIPPED"
