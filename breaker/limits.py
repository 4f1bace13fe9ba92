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
        >>> Rule("DRAWDOWN") is Rule.DRAWDOWN
        True
    """

    API_ERRORS = TripReason.API_ERRORS
    DRAWDOWN = TripReason.DRAWDOWN
    API_LATENCY = TripReason.API_LATENCY
    DATA_STALENESS = TripReason.DATA_STALENESS
    DAILY_LOSS = TripReason.DAILY_LOSS
    LOSS_VELOCITY = TripReason.LOSS_VELOCITY
    CONSECUTIVE_REJECTIONS = TripReason.CONSECUTIVE_REJECTIONS
    POSITION_SIZE = TripReason.POSITION_SIZE
    GROSS_EXPOSURE = TripReason.GROSS_EXPOSURE
    POSITION_MISMATCH = TripReason.POSITION_MISMATCH
    MARGIN = TripReason.MARGIN
    ORDER_RATE = TripReason.ORDER_RATE
    REPEATED_EXECUTION = TripReason.REPEATED_EXECUTION
    SILENT_INPUT = TripReason.SILENT_INPUT


_CONFIRMATIONS: Mapping[Rule, int] = {Rule.POSITION_MISMATCH: 3, Rule.API_LATENCY: 3}
"""Where one measurement isn't enough unless said otherwise: a fill reaches engine and venue at different moments, and
one slow answer is a lost packet."""


_MOST = Decimal(10) ** 30


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one scope, the runbook's unless given. None switches a rule off; its measurements are kept.

    A rule trips when the measurement is *beyond* its limit: on the 11th error, at more than 5 %.

    Attributes:
        api_errors: How many errors the window may hold.
        api_error_window: Seconds.
        api_latency: Seconds that a call may take until it is answered.
        drawdown: How far equity may fall below its high-water mark; a fraction, 0.05 is 5 %.
        data_age: Seconds that a feed's newest data may be old.
        daily_loss: How far equity may fall below that of the day's start; a fraction.
        loss_velocity: How far equity may fall within `loss_window`; a fraction.
        loss_window: Seconds.
        consecutive_rejections: How many orders in a row the venue may reject.
        position_size: The largest notional of one position, in the account's currency.
        gross_exposure: The largest notional of all positions together, long and short, in the account's currency.
        position_mismatch: How far the engine's position may be apart from the venue's, as a fraction of the larger.
        margin: How much of the equity the maintenance margin may take; a fraction.
        order_rate: How many messages may be sent within a second.
        repeated_executions: How often a strategy may be executed until a person enables it again by a reset.
        silence: Seconds for which a rule that is on may hear nothing.
        silence_trips: Whether that trips; people are told in any case, by the health verification.
        confirmations: How many measurements in a row have to be beyond the limit; 1 unless given, and 3 for
            POSITION_MISMATCH and API_LATENCY.
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
    api_latency: float | None = None
    drawdown: Decimal | None = Decimal("0.05")
    data_age: float | None = 1800.0
    daily_loss: Decimal | None = None
    loss_velocity: Decimal | None = None
    loss_window: float = 60.0
    consecutive_rejections: int | None = None
    position_size: Decimal | None = None
    gross_exposure: Decimal | None = None
    position_mismatch: Decimal | None = None
    margin: Decimal | None = None
    order_rate: int | None = None
    repeated_executions: int | None = None
    silence: float | None = 600.0
    silence_trips: bool = False
    confirmations: Mapping[Rule, int] = field(default_factory=dict)
    dry_run: frozenset[Rule] = frozenset()

    def __post_init__(self) -> None:
        for name in ("api_errors", "consecutive_rejections", "order_rate", "repeated_executions"):
            count = getattr(self, name)
            if count is not None and count < 0:
                raise InvalidInput(f"{name} is {count}; use a whole number from 0 on, or None to switch the rule off.")
        for name in ("drawdown", "daily_loss", "loss_velocity", "position_mismatch"):
            share = getattr(self, name)
            if share is not None and not 0 < share < 1:
                raise InvalidInput(f"{name} is {share}; use a fraction between 0 and 1 (0.05 is 5 %), or None.")
        for name in ("position_size", "gross_exposure", "margin"):
            amount = getattr(self, name)
            if amount is not None and not 0 < amount < _MOST:
                raise InvalidInput(f"{name} is {amount}; use a number above 0, or None to switch the rule off.")
        checked_seconds(self.api_error_window, "api_error_window", least=1.0)
        checked_seconds(self.loss_window, "loss_window", least=1.0)
        for name, least in (("data_age", 1.0), ("silence", 1.0), ("api_latency", 0.001)):
            if getattr(self, name) is not None:
                checked_seconds(getattr(self, name), name, least=least)
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
        return self.confirmations.get(rule, _CONFIRMATIONS.get(rule, 1))
