"""Give the automatic rules and their limits (runbook, *Automatic Trips*) names, units and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from breaker.checked_inputs import checked_seconds
from breaker.errors import InvalidInput
from breaker.trip_reasons import TripReason


class Rule(StrEnum):
    """The automatic rules; the word is the `trip_reason` that each trips with.

    Example:
        >>> [rule.value for rule in Rule]
        ['API_ERRORS', 'DRAWDOWN', 'DATA_STALENESS', 'DAILY_LOSS', 'LOSS_VELOCITY', 'CONSECUTIVE_REJECTIONS']
    """

    API_ERRORS = TripReason.API_ERRORS
    DRAWDOWN = TripReason.DRAWDOWN
    DATA_STALENESS = TripReason.DATA_STALENESS
    DAILY_LOSS = TripReason.DAILY_LOSS
    LOSS_VELOCITY = TripReason.LOSS_VELOCITY
    CONSECUTIVE_REJECTIONS = TripReason.CONSECUTIVE_REJECTIONS


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one scope, the runbook's unless given. None switches a rule off; its measurements are kept.

    A rule trips when the measurement is *beyond* its limit: on the 11th error, at more than 5 %.

    Attributes:
        api_errors: How many errors the window may hold.
        api_error_window: Seconds.
        drawdown: How far equity may fall below its high-water mark; a fraction, 0.05 is 5 %.
        data_age: Seconds that a feed's newest data may be old.
        daily_loss: How far equity may fall below that of the day's start; a fraction.
        loss_velocity: How far equity may fall within `loss_window`; a fraction.
        loss_window: Seconds.
        consecutive_rejections: How many orders in a row the venue may reject.
        confirmations: How many measurements in a row have to be beyond the limit; 1 unless given.
        dry_run: Rules that only record what they would have done.

    Raises:
        InvalidInput: a limit makes no sense.

    Example:
        >>> Limits(drawdown=Decimal("0.02"), dry_run=frozenset({Rule.API_ERRORS})).api_errors
        10
        >>> Limits(drawdown=Decimal(5))
        Traceback (most recent call last):
        ...
        breaker.errors.InvalidInput: drawdown is 5; use a fraction between 0 and 1 (0.05 is 5 %), or None.
    """

    api_errors: int | None = 10
    api_error_window: float = 300.0
    drawdown: Decimal | None = Decimal("0.05")
    data_age: float | None = 1800.0
    daily_loss: Decimal | None = None
    loss_velocity: Decimal | None = None
    loss_window: float = 60.0
    consecutive_rejections: int | None = None
    confirmations: Mapping[Rule, int] = field(default_factory=dict)
    dry_run: frozenset[Rule] = frozenset()

    def __post_init__(self) -> None:
        for name, count in (("api_errors", self.api_errors), ("consecutive_rejections", self.consecutive_rejections)):
            if count is not None and count < 0:
                raise InvalidInput(f"{name} is {count}; use a whole number from 0 on, or None to switch the rule off.")
        for name in ("drawdown", "daily_loss", "loss_velocity"):
            share = getattr(self, name)
            if share is not None and not 0 < share < 1:
                raise InvalidInput(f"{name} is {share}; use a fraction between 0 and 1 (0.05 is 5 %), or None.")
        checked_seconds(self.api_error_window, "api_error_window", least=1.0)
        checked_seconds(self.loss_window, "loss_window", least=1.0)
        if self.data_age is not None:
            checked_seconds(self.data_age, "data_age", least=1.0)
        if any(count < 1 for count in self.confirmations.values()):
            raise InvalidInput("confirmations must be 1 or more; 1 acts on the first measurement.")

    def mode(self, rule: Rule, limit: object) -> str:
        """How the scripts are to apply a rule.

        Args:
            rule: The rule.
            limit: Its limit; None when it is switched off.

        Returns:
            `on`, `dry` or `off`.
        """
        if limit is None:
            return "off"
        return "dry" if rule in self.dry_run else "on"

    def wanted(self, rule: Rule) -> int:
        """How many measurements in a row have to be beyond a limit.

        Args:
            rule: Whose.

        Returns:
            1 unless `confirmations` say otherwise.
        """
        return self.confirmations.get(rule, 1)
