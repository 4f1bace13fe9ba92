"""Send what becomes of a kill switch as messages, and show received messages as if it ran here.

One message is one JSON object with an `event`: HALTED or NOT_HALTED, SWEPT, PROGRESS again and again, REPORT, COSTS,
DONE; NO_BROKER or FAILED where it ends early. On the standby's socket ACCEPTED or REFUSED comes before them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from breaker.state import State, Status
from brokers.sweep import SweepResult
from flows.kill_start import KillDisplay, RunProgress
from tasks.kill.account import AccountProgress
from tasks.kill.cost import ExitCost
from tasks.kill.report import KillReport

PROGRESS_EVERY = 0.1

_report = TypeAdapter(KillReport)
_progress = TypeAdapter(list[AccountProgress])
_costs = TypeAdapter(tuple[ExitCost, ...])


@dataclass(frozen=True, slots=True)
class MessageDisplay(KillDisplay):
    """Hands each thing to be shown to `send`, as a message."""

    send: Callable[[Mapping[str, Any]], None]

    def halted(self, status: Status, scope: str, after: float) -> None:
        self.send({"event": "HALTED", "status": dict(status), "scope": scope, "after": after})

    def not_halted(self, problem: object) -> None:
        self.send({"event": "NOT_HALTED", "problem": str(problem)})

    def no_broker(self) -> None:
        self.send({"event": "NO_BROKER"})

    def swept(self, results: Sequence[SweepResult], after: float) -> None:
        self.send({"event": "SWEPT", "results": [asdict(result) for result in results], "after": after})

    @contextlib.contextmanager
    def live(self, run: RunProgress) -> Iterator[None]:
        sending = asyncio.create_task(self._send_progress(run))
        try:
            yield
        finally:
            sending.cancel()

    async def _send_progress(self, run: RunProgress) -> None:
        while True:
            accounts = _progress.dump_python(list(run.progress.values()), mode="json")
            self.send({"event": "PROGRESS", "elapsed": run.elapsed, "accounts": accounts})
            await asyncio.sleep(PROGRESS_EVERY)

    def report(self, report: KillReport) -> None:
        body = _report.dump_python(report, mode="json")
        self.send({"event": "REPORT", "flat": report.flat, "report": body})

    def costs(self, report: KillReport) -> None:
        self.send({"event": "COSTS", "costs": _costs.dump_python(report.costs, mode="json")})

    def done_without(self, missing: Sequence[str]) -> None:
        self.send({"event": "DONE", "missing": list(missing)})


@dataclass(slots=True)
class FollowedKill:
    """A kill switch of another process, as far as its messages have told."""

    incident_id: str
    halted: bool = False
    report: KillReport | None = None
    ended: bool = False
    """It has said that it is done. Otherwise it was lost on the way."""
    problem: str = "its connection ended"
    """Why it was lost, unless it has ended."""
    elapsed: float = 0.0
    progress: dict[str, AccountProgress] = field(default_factory=dict)


def follow(messages: Iterable[Mapping[str, Any]], incident_id: str, display: KillDisplay) -> FollowedKill:
    """Show what the messages tell until it is over or they end. Never raises: what is lost can be done here."""
    kill = FollowedKill(incident_id)
    with contextlib.ExitStack() as showing:
        try:
            for message in messages:
                _show(message, kill, display, showing)
                if kill.ended or message["event"] == "FAILED":
                    break
        except (OSError, ValueError, KeyError, TypeError) as error:
            kill.problem = f"{type(error).__name__}: {error}"
    return kill


def _show(message: Mapping[str, Any], kill: FollowedKill, display: KillDisplay, showing: contextlib.ExitStack) -> None:
    match message["event"]:
        case "HALTED":
            kill.halted = True
            fields = message["status"]
            status = Status(State(fields["state"]), fields, unconfirmed=fields.get("unconfirmed"))
            display.halted(status, message["scope"], message["after"])
        case "NOT_HALTED":
            display.not_halted(message["problem"])
        case "SWEPT":
            display.swept([SweepResult(**result) for result in message["results"]], message["after"])
        case "PROGRESS":
            if not kill.progress:
                showing.enter_context(display.live(kill))
            kill.elapsed = message["elapsed"]
            accounts = _progress.validate_python(message["accounts"], strict=False)
            kill.progress = {account.account: account for account in accounts}
        case "REPORT":
            kill.report = _report.validate_python(message["report"], strict=False)
            kill.halted = kill.halted or kill.report.halted_after is not None
            showing.close()
            display.report(kill.report)
        case "COSTS" if kill.report is not None:
            kill.report = replace(kill.report, costs=_costs.validate_python(message["costs"], strict=False))
            display.costs(kill.report)
        case "DONE":
            display.done_without(message["missing"])
            kill.ended = True
        case "NO_BROKER":
            display.no_broker()
            kill.ended = True
        case "FAILED":
            kill.problem = message["why"]
