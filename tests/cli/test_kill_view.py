"""The report of a kill on a screen of eighty columns."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from breaker import State, Status
from cli import kill_view
from tasks.kill.account import AccountProgress
from tasks.kill.report import KillReport

NOTE = "MSFT does not trade now (halted since 14:02 UTC), and its close is tried again for as long as the run lasts"


def test_a_note_has_the_width_of_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(kill_view, "console", lambda **_: Console(file=screen, width=80))
    accounts = (AccountProgress("ALPHA", note=NOTE), AccountProgress("BETA"))
    report = KillReport("one", "a test", "ada", "global", "all", datetime.now(UTC), 0.1, 0.2, 0.3, accounts, ())
    kill_view.KillView(quiet=False).report(report)
    lines = screen.getvalue().splitlines()
    assert any("· note  ALPHA: MSFT does not trade now (halted since" in line for line in lines), lines
    assert sum("· note" in line for line in lines) == 1, "an account without one has no line"


def test_the_document_is_given_once_the_halt_is_made_and_the_costs_are_known() -> None:
    given: list[KillReport] = []
    report = KillReport("one", "a test", "ada", "global", "all", datetime.now(UTC), 0.1, 0.2, 0.3, (), ())
    view = kill_view.KillView(quiet=True, answer=given.append)
    view.report(report)
    view.costs(report)
    assert given == [], "whether it is halted is only known at the end"
    view.halted(Status(State.TRIPPED), "global", 0.1)
    view.costs(report)
    assert given == [report]
