"""Hold what a drill came to: figures, what is wrong with them, and how people read both. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from breaker.uuid7 import uuid7
from tasks.kill.report import KillReport, seconds


@dataclass(frozen=True, slots=True)
class DrillResult:
    """Times are seconds. Those of the kill count from its trip, `recovery_after` from the recovery's start."""

    orders: int
    positions: int
    drill_id: str = field(default_factory=uuid7)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    halted_after: float | None = None
    """Until a gate, as an engine has one, refused new risk."""
    first_cancel_after: float | None = None
    no_orders_after: float | None = None
    flat_after: float | None = None
    recovery_after: float | None = None
    """Until the breaker was OPEN again, the watch after the reset included."""
    violations: int | None = None
    """Closes that the venue calls wrong; None when it could not be asked."""
    cost: str = ""
    """What the exit cost, in a line; empty where that was not read."""
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return {"passed": self.passed, **asdict(self), "started_at": self.started_at.isoformat()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> DrillResult:
        """Raises KeyError, TypeError or ValueError for what `as_dict` didn't make."""
        known = {name: value for name, value in fields.items() if name != "passed"}
        known |= {
            "started_at": datetime.fromisoformat(known["started_at"]),
            "problems": tuple(str(problem) for problem in known["problems"]),
        }
        return cls(**known)

    def rows(self) -> Sequence[tuple[str, str]]:
        """The figures in words, in the order in which things happen."""
        return (
            ("book", f"{self.orders} open orders, {self.positions} positions"),
            ("gate closed after", seconds(self.halted_after)),
            ("first cancel after", seconds(self.first_cancel_after)),
            ("no open orders after", seconds(self.no_orders_after)),
            ("flat after", seconds(self.flat_after)),
            ("the exit cost", self.cost or "—"),
            ("recovery to OPEN took", seconds(self.recovery_after)),
            ("violations, says the venue", "—" if self.violations is None else str(self.violations)),
        )

    def as_markdown(self) -> str:
        lines = [
            f"# Drill: {'passed' if self.passed else 'FAILED'}",
            "",
            f"{self.started_at:%Y-%m-%d %H:%M:%S} UTC",
            "",
        ]
        lines += [f"- {problem}" for problem in self.problems]
        lines += ["", "| what | figure |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in self.rows())]
        return "\n".join(lines) + "\n"


def problems_of_kill(report: KillReport, venue: Mapping[str, Any]) -> list[str]:
    """What is wrong with a kill, by its own report and by the venue's, of which the venue's counts."""
    found = []
    if not report.flat:
        left = "; ".join(f"{account.account}: {account.note or account.phase}" for account in report.accounts)
        found.append(f"the kill switch did not prove the book flat ({left})")
    if not venue["is_flat"]:
        found.append(f"the venue still has {venue['open_orders']} orders and {len(venue['positions'])} positions")
    found += [f"the venue saw a violation: {violation}" for violation in venue["violations"]]
    return found
