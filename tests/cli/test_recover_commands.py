"""`breaker recover` on a recovery that waits for a person."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest
import redis
from rich.console import Console

from breaker import CircuitBreaker
from breaker.uuid7 import uuid7
from cli import recover_commands
from cli.recovery_view import checklist
from configuration.login import login_name
from tasks import orchestrator
from tasks.recovery.checklist import ITEMS
from tasks.recovery.evidence_store import evidence_key
from tasks.recovery.state import ItemState, RecoveryState, Tick, cancelled_sentence, now_iso, state_key
from tests.cli.conftest import RunCli
from tests.cli.test_audit_commands import rows
from tests.helpers import eventually


def test_the_evidence_can_be_read_before_the_root_cause_is_written(
    configured: redis.Redis, breaker_cli: RunCli
) -> None:
    nothing = breaker_cli("recover", "evidence")
    assert (nothing.returncode, nothing.stdout) == (1, "") and "no recovery of global" in nothing.stderr
    incident = uuid7()
    state = RecoveryState(incident, "global", "a run", waiting_for="root-cause")
    configured.set(state_key("global"), state.to_json())
    configured.set(evidence_key(incident), "### Trip\n\nby ada \x1b[2J")
    assert "breaker recover evidence" in breaker_cli("recover").stdout
    for asked in (breaker_cli("recover", "evidence"), breaker_cli("recover", "evidence", "--incident", incident)):
        assert (asked.returncode, asked.stdout) == (0, "### Trip\n\nby ada \ufffd[2J\n"), asked.stderr
    other = breaker_cli("recover", "evidence", "--incident", uuid7())
    assert other.returncode == 1 and "is kept" in other.stderr


@pytest.mark.parametrize(
    ("waits_for", "given", "says"),
    [
        (
            "root-cause",
            ("--acknowledge", "--reason", "cause found and fixed, book checked"),
            "--reason, --acknowledge answers another question. The recovery asks for the root cause of incident",
        ),
        ("root-cause", ("--override", "it is known and harmless"), "recover answer --root-cause WHAT --corrective"),
        ("approval", ("--root-cause", "the feed repeated itself"), "recover answer --reason WHY --acknowledge"),
    ],
)
def test_an_answer_to_another_question_is_told_what_is_asked(
    configured: redis.Redis, breaker_cli: RunCli, waits_for: str, given: tuple[str, ...], says: str
) -> None:
    breaker_cli("trip")
    incident = json.loads(configured.get("circuit_breaker:state") or b"{}")["incident_id"]
    waiting = RecoveryState(incident, "global", "a run", waiting_for=waits_for).to_json()
    configured.set(state_key("global"), waiting)
    outcome = breaker_cli("recover", "answer", *given)
    assert outcome.returncode == 1 and outcome.stdout == ""
    _, said = outcome.stderr.splitlines()  # first what it is about to act on
    assert says in said and said.endswith("; nothing changed") and incident in said
    assert configured.get(state_key("global")) == waiting.encode()
    assert rows(breaker_cli, "--action", "RECOVERY_ANSWER_REFUSED") == []


def test_without_an_orchestrator_a_start_is_refused_in_one_line(configured: redis.Redis, breaker_cli: RunCli) -> None:
    breaker_cli("init")
    breaker_cli("trip")
    outcome = breaker_cli("recover", "start")
    assert outcome.returncode == 1 and outcome.stdout == ""
    _, said = outcome.stderr.splitlines()  # first what it is about to act on
    assert said.startswith("breaker: no recovery was started: ")
    assert "trading stays halted" in outcome.stderr


def test_followed_by_what_is_no_terminal_it_says_each_change_until_the_end(
    configured: redis.Redis, breaker_cli: RunCli
) -> None:
    def looks() -> int:
        stats: dict[str, dict[str, int]] = configured.info("commandstats")
        return stats.get("cmdstat_get", {}).get("calls", 0)

    state = RecoveryState(uuid7(), "global", "a run", phase="going on")
    configured.set(state_key("global"), state.to_json())
    before = looks()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(breaker_cli, "recover", "--watch")
        eventually(lambda: looks() > before, within=60)
        for key in ITEMS:
            state = state.with_item(key, ItemState(Tick.GREEN, now_iso(), "ada", "seen"))
        configured.set(state_key("global"), replace(state, phase="recovered: OPEN", done=True).to_json())
        outcome = following.result(timeout=60)
    lines = outcome.stdout.splitlines()
    assert outcome.returncode == 0 and lines[0].startswith("▸ going on"), outcome
    assert lines[1].startswith("▸ recovered: OPEN") and len(lines) == 2 + len(ITEMS)
    assert "☑ 5. Monitor for 5 minutes for any issues" in lines[-1]


@pytest.mark.parametrize("done", range(len(ITEMS) + 1))
def test_on_a_small_terminal_what_is_being_worked_on_is_always_seen(done: int) -> None:
    state = RecoveryState(uuid7(), "account:ALPHA", "a run", phase="going on", problem="The last answer: " + "no " * 80)
    for key in list(ITEMS)[:done]:
        state = state.with_item(key, ItemState(Tick.GREEN, now_iso(), "ada", "evidence " * 40))
    current = list(ITEMS)[min(done, len(ITEMS) - 1)]
    state = state.with_item(current, ItemState(Tick.WORKING, now_iso(), "", "3 min left " * 20))
    screen = Console(width=80, height=24, file=io.StringIO())
    screen.print(checklist(state, 24))
    assert isinstance(screen.file, io.StringIO)
    lines = screen.file.getvalue().splitlines()
    assert len(lines) < 24 and max(map(len, lines)) <= 80
    assert any(f"… {ITEMS[current].words} [working]" in line for line in lines), lines


def test_a_recovery_that_was_cancelled_in_prefect_is_ended_by_a_choice_that_is_on_record(
    configured: redis.Redis, breaker_cli: RunCli
) -> None:
    breaker_cli("init")
    assert breaker_cli("recover", "end", "--reason", "there is none that was cancelled").returncode == 1
    state = RecoveryState(
        uuid7(),
        "global",
        "a run",
        phase="cancelled in Prefect",
        problem=cancelled_sentence("global"),
        cancelled_at=now_iso(),
    )
    configured.set(state_key("global"), state.to_json())
    shown = breaker_cli("recover")
    assert "cancelled in Prefect" in shown.stdout and "recover end --reason WHY" in shown.stdout.partition("next")[2]
    answered = breaker_cli("recover", "answer", "--root-cause", "the feed repeated itself")
    assert answered.returncode == 1 and "breaker recover start`; or end it: `" in answered.stderr
    ended = breaker_cli("recover", "end", "--reason", "its cause is known from the incident before")
    assert ended.returncode == 0, ended.stderr
    (row,) = rows(breaker_cli, "--action", "RECOVERY_ENDED")
    assert row["incident_id"] == state.incident_id and row["user_id"] == login_name()
    assert breaker_cli("recover", "end", "--reason", "its cause is known from the incident before").returncode == 1


def test_a_recovery_that_was_cancelled_is_begun_again_on_record_also_where_its_breaker_is_open(
    configured: redis.Redis, breaker_cli: RunCli, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker_cli("init")
    incident = json.loads(breaker_cli("trip", "--json").stdout)["incident_id"]
    with closing(CircuitBreaker(configured)) as breaker:
        epoch = breaker.reset("ben", "straight from the library").epoch
        breaker.end_quiet_period(expected_epoch=int(epoch or 0), by="test")
    state = RecoveryState(
        incident, "global", "the first run", cancelled_at=now_iso(), problem=cancelled_sentence("global")
    )
    configured.set(state_key("global"), state.to_json())
    for name in ("BREAKER_CONFIG", "HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, environment[name])

    async def started(deployment: str, **parameters: str) -> str:
        assert (deployment, parameters["incident_id"]) == ("recovery/recovery", incident)
        return "019d0000-0000-7000-8000-000000000000"

    monkeypatch.setattr(orchestrator, "start", started)  # Prefect with what is served would take a minute
    recover_commands.start("global")
    (row,) = rows(breaker_cli, "--action", "RECOVERY_BEGUN_AGAIN")
    assert row["incident_id"] == incident and "the first run" in str(row["details"])
