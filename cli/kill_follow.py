"""Following a kill that the standby executor does: the same view, from what it says on its connection."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from breaker.state import State, Status
from brokers.sweep import SweepResult
from cli.kill_handover import Handed
from cli.kill_view import KillView
from tasks.kill.account import AccountProgress
from tasks.kill.report import KillReport

_report = TypeAdapter(KillReport)
_progress = TypeAdapter(list[AccountProgress])


@dataclass
class Followed:
    """What was seen of it."""

    incident_id: str
    halted: bool = False
    report: KillReport | None = None
    ended: bool = False
    """The standby has said that it is done. Otherwise it was lost on the way, and the rest is for us."""
    problem: str = "its connection ended"
    progress: dict[str, AccountProgress] = field(default_factory=dict)
    elapsed: float = 0.0


def follow(handed: Handed, view: KillView) -> Followed:
    """Until the standby is done or gone. Never raises: whatever it was, the rest can be done here."""
    seen = Followed(handed.acknowledgement["incident_id"])
    with contextlib.ExitStack() as showing:
        try:
            for message in _messages(handed):
                _show(message, seen, view, showing)
                if seen.ended or message["event"] == "FAILED":
                    break
        except (OSError, ValueError, KeyError, TypeError) as error:
            seen.problem = f"{type(error).__name__}: {error}"
    return seen


def _messages(handed: Handed) -> Iterator[Mapping[str, Any]]:
    for line in handed.lines:
        yield json.loads(line)


def _show(message: Mapping[str, Any], seen: Followed, view: KillView, showing: contextlib.ExitStack) -> None:
    match message["event"]:
        case "HALTED":
            seen.halted = True
            status = Status(State(message["status"]["state"]), message["status"])
            view.halted(status, message["scope"], message["after"])
            if "unconfirmed" in status:
                view.unconfirmed(status["unconfirmed"])
        case "NOT_HALTED":
            view.not_halted(message["problem"])
        case "SWEPT":
            view.swept([SweepResult(**result) for result in message["results"]], message["after"])
            showing.enter_context(view.live(seen))
        case "PROGRESS":
            seen.elapsed = message["elapsed"]
            accounts = _progress.validate_python(message["accounts"], strict=False)
            seen.progress = {account.account: account for account in accounts}
        case "REPORT":
            seen.report = _report.validate_python(message["report"], strict=False)
            seen.halted = seen.halted or seen.report.halted_after is not None
            showing.close()
            view.report(seen.report)
        case "DONE":
            view.done_without(message["missing"])
            seen.ended = True
        case "NO_BROKER":
            view.no_broker()
            seen.ended = True
        case "FAILED":
            seen.problem = message["why"]
