"""Name the units of the configuration's numbers; the reference of the configuration shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True, slots=True)
class Unit:
    """What a number of the configuration counts, as a word for people. It changes nothing of what is accepted."""

    word: str


Seconds = Annotated[float, Field(gt=0, le=86_400), Unit("seconds")]
