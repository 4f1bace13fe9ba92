"""Judge by the exchange's record for how long positions had neither stop nor close at work. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.kill.plan import LET_GO_AT_ONCE

CLOSE_TAKES = 2.0
"""Seconds from a close's entry to its fill in the book that is tried: the measure for how long a stop may be missing
before its position's close works."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """Seconds on the exchange's clock."""

    longest: float = 0.0
    """Of those in which the kill switch was alive from the stop's end to the close's entry."""
    left_behind: int = 0
    """Positions that were without when it died."""
    longest_left: float = 0.0
    """Of these, what it lived to see, and what the second run took from its start to the close."""
    again: tuple[str, ...] = ()
    """Symbols that were without more than once: a close at work was taken back."""

    def faults(self) -> list[str]:
        """Each as a sentence."""
        found = [f"{symbol} lost a close that was at work" for symbol in self.again]
        if self.longest > CLOSE_TAKES:
            found.append(f"a position was without stop and close for {self.longest:.3f} s while the kill went on")
        if self.left_behind > LET_GO_AT_ONCE:
            found.append(f"{self.left_behind} positions were without stop and close when it died")
        return found


def exposure(gaps: Sequence[Mapping[str, Any]], died_at: float | None, restarted_at: float) -> Exposure:
    """What the exchange recorded as `unprotected` by the end, when it is flat.

    `died_at` is None for a run that came to its end; a process that is dead is not what is measured.
    """
    left = [gap for gap in gaps if died_at is not None and gap["from"] <= died_at < gap["to"]]
    alive = [gap["to"] - gap["from"] for gap in gaps if gap not in left]
    times = Counter(gap["symbol"] for gap in gaps)
    spent = [died_at - gap["from"] + max(0.0, gap["to"] - restarted_at) for gap in left if died_at is not None]
    return Exposure(
        longest=max(alive, default=0.0),
        left_behind=len(left),
        longest_left=max(spent, default=0.0),
        again=tuple(sorted(symbol for symbol, count in times.items() if count > 1)),
    )
