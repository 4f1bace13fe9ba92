"""Name what a reset, and the end of its quiet period, are bound to in Redis: by the very scripts that make them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ResetToken:
    """What a reset consumes: it is made only while `key` holds `value`, and leaves `spent` there in the same script."""

    key: str
    value: str
    spent: str


@dataclass(frozen=True, slots=True)
class Watching:
    """Who watches a quiet period that only its watch may end, as `key` has it. Seconds: after `silent` without a sign
    of life it has died, and it lasts `lasting`.
    """

    key: str
    holder: str
    silent: float
    lasting: float
