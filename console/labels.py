"""Label states and colours: a shape and a word beside each colour, for who can't tell colours. Imports nothing slow."""

from __future__ import annotations

from dataclasses import dataclass

from breaker.state import State


@dataclass(frozen=True, slots=True)
class StateLabel:
    shape: str
    word: str
    meaning: str


STATE_LABELS = {
    State.OPEN: StateLabel("●", "OPEN", "trading allowed"),
    State.TRIPPED: StateLabel("■", "TRIPPED", "halted: only orders that reduce risk pass"),
    State.QUIET_PERIOD: StateLabel("◐", "QUIET PERIOD", "limited trading, cooling down after a reset"),
    State.UNKNOWN: StateLabel("?", "UNKNOWN", "cannot be told, so treated as tripped"),
}

COLOUR_SHAPES = {"green": "●", "yellow": "▲", "red": "■"}
