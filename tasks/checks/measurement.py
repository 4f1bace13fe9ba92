"""Hold one measured fact with its limit and its colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

DRAWDOWN = "drawdown"
"""The name of the drawdown's measurement."""
REBASE = "re-base"
"""What its problem names where a re-base lifts it: not where nothing is left of the account."""


class Colour(StrEnum):
    GREEN = "green"
    YELLOW = "yellow"
    """Near its limit, or not measurable because nothing was configured to be measured: a person may go on."""
    RED = "red"
    """Beyond its limit, or not measurable although it should be: nobody goes on without an override."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """`value` and `limit` are text for people, units included; `how` says where the value is from."""

    name: str
    colour: Colour
    value: str
    limit: str
    how: str
    measured_at: datetime
    problem: str = ""
    """Why it is not green, as a sentence with what to do; empty when it is."""

    def as_dict(self) -> dict[str, str]:
        return {
            "name": self.name,
            "colour": self.colour.value,
            "value": self.value,
            "limit": self.limit,
            "how": self.how,
            "measured_at": self.measured_at.isoformat(),
            "problem": self.problem,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, str]) -> Measurement:
        return cls(
            name=fields["name"],
            colour=Colour(fields["colour"]),
            value=fields["value"],
            limit=fields["limit"],
            how=fields["how"],
            measured_at=datetime.fromisoformat(fields["measured_at"]),
            problem=fields["problem"],
        )


def worst(measurements: Iterable[Measurement]) -> Colour:
    """The colour of the whole; green for nothing at all."""
    colours = {measurement.colour for measurement in measurements}
    return next((colour for colour in (Colour.RED, Colour.YELLOW) if colour in colours), Colour.GREEN)


def names_of(measurements: Sequence[Measurement], colour: Colour) -> tuple[str, ...]:
    """The names of the measurements of this colour, sorted."""
    return tuple(sorted({measurement.name for measurement in measurements if measurement.colour is colour}))
