"""How states, colours and times look to people. A shape and a word beside each colour, for who can't tell colours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from breaker import State
from breaker.gate.decision import Reason
from breaker.gate.report import GATE_FAULTS, ReportedGate


@dataclass(frozen=True, slots=True)
class Look:
    shape: str
    word: str
    meaning: str


LOOKS = {
    State.OPEN: Look("●", "OPEN", "trading allowed"),
    State.TRIPPED: Look("■", "TRIPPED", "halted: only orders that reduce risk pass"),
    State.QUIET_PERIOD: Look("◐", "QUIET PERIOD", "limited trading, cooling down after a reset"),
    State.UNKNOWN: Look("?", "UNKNOWN", "cannot be told, so treated as tripped"),
}

COLOUR_SHAPES = {"green": "●", "yellow": "▲", "red": "■"}


def gate_look(gate: ReportedGate) -> tuple[str, str, str]:
    """Colour, shape and word for where a gate stands."""
    if gate.lost:
        return "yellow", "?", "LOST"
    if gate.report.reason == Reason.OPEN:
        return "green", LOOKS[State.OPEN].shape, LOOKS[State.OPEN].word
    if gate.report.reason == Reason.QUIET_PERIOD:
        return "yellow", LOOKS[State.QUIET_PERIOD].shape, LOOKS[State.QUIET_PERIOD].word
    if gate.report.reason in GATE_FAULTS:
        return "yellow", COLOUR_SHAPES["yellow"], gate.report.reason
    return "red", COLOUR_SHAPES["red"], gate.report.reason


def utc(moment: datetime | None) -> str:
    return "—" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def moment(text: str) -> datetime | None:
    """What an ISO 8601 text with a zone stands for; None where it stands for nothing."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None


def ago(seconds: float) -> str:
    """A duration in the largest unit that fits."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(max(seconds, 0))} s"


def seconds(value: float | None) -> str:
    """A measured duration; a dash where it isn't known."""
    if value is None:
        return "—"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def money(value: Decimal | None, currency: str = "") -> str:
    return "—" if value is None else f"{value:,.2f} {currency}".strip()


def shares(value: Decimal) -> str:
    """A quantity without the zeros that a venue appends."""
    return f"{value.normalize():,f}"
