"""Give the automatic rules and their limits (runbook, *Automatic Trips*) names, units and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from breaker.errors import InvalidInput
from breaker.requests import checked_seconds
from breaker.trip_reasons import TripReason


class Rule(StrEnum):
    """The automatic rules; the word is the `trip_reason` that each trips with."""

    API_ERRORS = TripReason.API_ERRORS
    DRAWDOWN = TripReason.DRAWDOWN
    DATA_STALENESS = TripReason.DATA_STALENESS
    DAILY_LOSS = TripReason.DAILY_LOSS
    CONSECUTIVE_REJECTIONS = TripReason.CONSECUTIVE_REJECTIONS


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one scope, the runbook's unless given. None switches a rule off; its measurements are kept.

    `drawdown` and `daily_loss` are fractions (0.05 is 5 %), ages and windows are seconds. A rule trips when the
    measurement is *beyond* its limit: on the 11th error, at more than 5 %.
    """

    api_errors: int | None = 10
    api_error_window: float = 300.0
    drawdown: Decimal | None = Decimal("0.05")
    data_age: float | None = 1800.0
    daily_loss: Decimal | None = None
    consecutive_rejections: int | None = None
    confirmations: Mapping[Rule, int] = field(default_factory=dict)
    """How many measurements in a row have to be beyond the limit; 1 unless given."""
    dry_run: frozenset[Rule] = frozenset()
    """Rules that only record what they would have done."""

    def __post_init__(self) -> None:
        for name, count in (("api_errors", self.api_errors), ("consecutive_rejections", self.consecutive_rejections)):
            if count is not None and count < 0:
                raise InvalidInput(f"{name} is {count}; use a whole number from 0 on, or None to switch the rule off.")
        for name, share in (("drawdown", self.drawdown), ("daily_loss", self.daily_loss)):
            if share is not None and not 0 < share < 1:
                raise InvalidInput(f"{name} is {share}; use a fraction between 0 and 1 (0.05 is 5 %), or None.")
        checked_seconds(self.api_error_window, "api_error_window", least=1.0)
        if self.data_age is not None:
            checked_seconds(self.data_age, "data_age", least=1.0)
        if any(count < 1 for count in self.confirmations.values()):
            raise InvalidInput("confirmations must be 1 or more; 1 acts on the first measurement.")

    def mode(self, rule: Rule, limit: object) -> str:
        if limit is None:
            return "off"
        return "dry" if rule in self.dry_run else "on"
