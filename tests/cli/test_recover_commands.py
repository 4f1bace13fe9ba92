"""`breaker recover` on a recovery that waits for a person."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis
from rich.console import Console

from breaker.uuid7 import uuid7
from cli.recovery_view import checklist
from tasks.recovery.checklist import ITEMS
from tasks.recovery.evidence_store import evidence_key
from tasks.recovery.state import ItemState, RecoveryState, Tick, now_iso, state_key
from tests.cli.conftest import RunCli
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
