"""Describe each automatic rule once: what it measures, its limit and unit, whose it is, and who feeds it.

The documentation, the settings' meanings, the command line's help and the dashboards are made of this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from breaker.limits import Limits, Rule


@dataclass(frozen=True, slots=True)
class RuleDescription:
    """One automatic rule.

    Attributes:
        rule: Its name, and the `trip_reason` that it trips with.
        measured: What is measured, in a few words.
        setting: The limit's name in `Limits` and under `[rules.SCOPE]`.
        unit: Of the limit.
        scope: What it is usually told of: `account`, `strategy` or `feed`.
        fed_by: The method that measures, and who calls it.
        source: Where the rule comes from.
        hears_always: Whether silence says that something is wrong; an order rate, say, is silent between orders.

    Example:
        >>> RULE_TABLE[Rule.DRAWDOWN].default
        Decimal('0.05')
    """

    rule: Rule
    measured: str
    setting: str
    unit: str
    scope: str
    fed_by: str
    source: str
    hears_always: bool = False

    @property
    def default(self) -> object:
        """The limit unless another one is given; None for a rule that is off unless asked for."""
        return getattr(Limits(), self.setting)

    @property
    def meaning(self) -> str:
        """What the limit means, in a sentence."""
        off = " Off unless given." if self.default is None else ""
        return f"`{self.rule}`: {self.measured}; more trips.{off}"

    def limit(self, limits: Limits) -> object:
        """The limit that it has.

        Args:
            limits: Of the scope.

        Returns:
            None where the rule is off.
        """
        return getattr(limits, self.setting)


_RUNBOOK = "runbook, Automatic Trips"
_RISK = "RTS 6 Art. 15(4), 17(2)"
_MONITOR = "account monitor or engine"

RULE_TABLE: Mapping[Rule, RuleDescription] = {
    each.rule: each
    for each in (
        RuleDescription(
            Rule.DRAWDOWN,
            "equity below its high-water mark",
            "drawdown",
            "fraction",
            "account",
            f"record_equity: {_MONITOR}",
            _RUNBOOK,
            hears_always=True,
        ),
        RuleDescription(
            Rule.API_ERRORS,
            "failed calls within api_error_window",
            "api_errors",
            "errors",
            "account",
            f"record_api_error, record_api_success: {_MONITOR}",
            _RUNBOOK,
            hears_always=True,
        ),
        RuleDescription(
            Rule.API_LATENCY,
            "time until a call is answered",
            "api_latency",
            "seconds",
            "account",
            "record_latency: engine, gateway",
            "RTS 6 Art. 16(1)",
        ),
        RuleDescription(
            Rule.DATA_STALENESS,
            "age of a feed's newest data",
            "data_age",
            "seconds",
            "feed",
            "heartbeat: feed; check_staleness: health verification, gate",
            _RUNBOOK,
        ),
        RuleDescription(
            Rule.DAILY_LOSS,
            "equity below the day's first",
            "daily_loss",
            "fraction",
            "account",
            f"record_equity: {_MONITOR}",
            _RISK,
            hears_always=True,
        ),
        RuleDescription(
            Rule.LOSS_VELOCITY,
            "equity below its highest within loss_window",
            "loss_velocity",
            "fraction",
            "account",
            f"record_equity: {_MONITOR}",
            _RISK,
            hears_always=True,
        ),
        RuleDescription(
            Rule.CONSECUTIVE_REJECTIONS,
            "orders in a row that the venue rejected",
            "consecutive_rejections",
            "orders",
            "strategy",
            "record_order_rejected, record_order_accepted: engine",
            "RTS 6 Art. 16(1)",
        ),
        RuleDescription(
            Rule.POSITION_SIZE,
            "notional of the largest position",
            "position_size",
            "account's currency",
            "account",
            f"record_positions: {_MONITOR}",
            _RISK,
            hears_always=True,
        ),
        RuleDescription(
            Rule.GROSS_EXPOSURE,
            "notional of all positions, long and short",
            "gross_exposure",
            "account's currency",
            "account",
            f"record_positions: {_MONITOR}",
            _RISK,
            hears_always=True,
        ),
        RuleDescription(
            Rule.POSITION_MISMATCH,
            "the engine's position apart from the venue's",
            "position_mismatch",
            "fraction of the larger",
            "account",
            "publish_positions: engine; record_positions: account monitor",
            "RTS 6 Art. 17(3)",
        ),
        RuleDescription(
            Rule.MARGIN,
            "maintenance margin as a share of equity",
            "margin",
            "fraction",
            "account",
            f"record_margin: {_MONITOR}",
            _RISK,
            hears_always=True,
        ),
        RuleDescription(
            Rule.ORDER_RATE,
            "messages sent within a second",
            "order_rate",
            "messages",
            "strategy",
            "record_order_sent: engine",
            "RTS 6 Art. 15(1)(d)",
        ),
        RuleDescription(
            Rule.REPEATED_EXECUTION,
            "executions since a person enabled it",
            "repeated_executions",
            "executions",
            "strategy",
            "record_execution: engine",
            "RTS 6 Art. 15(3)",
        ),
        RuleDescription(
            Rule.SILENT_INPUT,
            "time in which a rule that is on heard nothing",
            "silence",
            "seconds",
            "account",
            "check_silence: health verification",
            "RTS 6 Art. 16(1)",
        ),
    )
}
"""Every rule, in the order in which people read them."""
