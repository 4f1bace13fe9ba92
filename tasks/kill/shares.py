"""Split a kill switch of many accounts into shares. Pure.

A share is a run of its own, by a worker, in the same incident: its closes have the names that any other run of the
incident gives them, so that two of them at once do no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from breaker.uuid7 import uuid7


@dataclass(frozen=True, slots=True)
class Share:
    """Some of the accounts of a run, `number` of `of`; the first is the run's own."""

    number: int
    of: int
    accounts: tuple[str, ...]
    run_id: str = field(default_factory=uuid7)
    """By which its status is found."""

    def __str__(self) -> str:
        first, last = self.accounts[0], self.accounts[-1]
        named = first if first == last else f"{first} to {last}"
        return f"share {self.number} of {self.of}, {named}"


def split(accounts: Sequence[str], size: int | None) -> list[Share]:
    """Shares of `size` accounts, in their order. One share where that is all of them, or no size is given."""
    size = size or len(accounts) or 1
    pieces = [tuple(accounts[at : at + size]) for at in range(0, len(accounts), size)]
    return [Share(number, len(pieces), piece) for number, piece in enumerate(pieces, 1)]
