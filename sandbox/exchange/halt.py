"""Describe the halt of a symbol."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Halt:
    """Nothing fills while it lasts."""

    rejects: bool
    """Whether new orders are refused, too."""
    status: int
    """The HTTP status of the refusal."""
