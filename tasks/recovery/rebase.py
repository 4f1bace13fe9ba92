"""Begin an account's high-water mark and day anew, for a person and on record.

Source: runbook, *Automatic Trips*. A drawdown is still there when its trip has been recovered from: unless somebody
says that what is held now is what is judged from, the next measurement trips again. Whoever may reset may say so; while
the drawdown is red it takes what overriding it takes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from breaker.errors import BreakerError, InvalidInput
from breaker.rules import Verdict
from breaker.state import State
from brokers.coverage import named_in
from configuration.breakers import async_rules_of
from configuration.monitor import monitored_scope
from configuration.settings import Settings
from ledger.record import DENIED, AuditRecord
from tasks.checks.equity import read_equity
from tasks.recovery.approval_rules import Approval, Refusal, Rule, in_words, refusals_of_reset
from tasks.recovery.rules_in_force import rules_in_force

if TYPE_CHECKING:
    from breaker import AsyncCircuitBreaker, Status

REBASED = "EQUITY_REBASED"
REBASE_REFUSED = "EQUITY_REBASE_REFUSED"


class NotRebased(BreakerError):
    """There is no equity at which it could begin anew, or what was given is none. Nothing changed."""


class EquityChangeRefused(BreakerError):
    """A rule refuses it. On record; nothing changed."""

    def __init__(self, refusals: Collection[Refusal], not_done: str) -> None:
        super().__init__(f"{not_done}: {in_words(list(refusals))}. Nothing changed.")
        self.refusals = tuple(refusals)

    @property
    def rule(self) -> Rule:
        """The first that refuses."""
        return self.refusals[0].rule


@dataclass(frozen=True, slots=True)
class Rebased:
    """What was judged from, and what is now. Text, in the account's currency; empty for what there was not."""

    equity: str
    """The high-water mark and the day's first from now on."""
    high_water_before: str
    day_start_before: str
    equity_before: str
    currency: str = ""
    """Empty where nobody has said it."""
    currency_before: str = ""

    def __str__(self) -> str:
        now_in, then_in = (f" {self.currency}", f" {self.currency_before}") if self._changed_currency else ("", "")
        before = (
            f"before it was {self.high_water_before}{then_in}" if self.high_water_before else "before there was none"
        )
        drawdown = f", drawdown {self.drawdown_before}" if self.drawdown_before else ""
        return f"the high-water mark begins anew at {self.equity}{now_in} ({before}{drawdown})"

    @property
    def _changed_currency(self) -> bool:
        return self.currency != self.currency_before

    @property
    def drawdown_before(self) -> str:
        return _fallen(self.high_water_before, self.equity_before)

    def as_details(self) -> dict[str, str]:
        """For the ledger."""
        return {
            "high_water_before": self.high_water_before,
            "high_water_after": self.equity,
            "day_start_before": self.day_start_before,
            "day_start_after": self.equity,
            "equity_before": self.equity_before,
            "equity_after": self.equity,
            "drawdown_before": self.drawdown_before,
            "daily_loss_before": _fallen(self.day_start_before, self.equity_before),
            **(
                {"currency_before": self.currency_before, "currency_after": self.currency}
                if self._changed_currency
                else {}
            ),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EquityChange:
    """Who asks that something else be judged from, by which way in, and why."""

    scope: str
    person: str
    permissions: Collection[str]
    reason: str
    source: str
    claimed: str = ""
    """A name that was only typed. Kept, and nothing is decided by it."""
    ip_address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RebaseRequest(EquityChange):
    """`value` is None for the last equity that was measured."""

    value: Decimal | None = None


async def begin_anew(
    settings: Settings, scope: str, value: Decimal | None = None, event_id: str | None = None
) -> Rebased:
    """The bare step, which whoever calls it has judged and records. Of the same `event_id` it is done once.

    Raises NotRebased, and BreakerUnavailable or RedisRefused as for a measurement.
    """
    rules = async_rules_of(settings, scope)
    try:
        outcome = await rules.rebase_equity(value, event_id=event_id)
    finally:
        await rules.close()
    told = outcome.details
    if outcome.verdict is Verdict.REFUSED:
        raise NotRebased(f"Not re-based: {told['problem']}. The high-water mark of {scope} is as it was.")
    amounts = {
        name: _written_out(told[name]) for name in ("equity", "high_water_before", "day_start_before", "equity_before")
    }
    return Rebased(**amounts, currency=told["currency"], currency_before=told["currency_before"])


async def rebase_equity(
    settings: Settings,
    breaker: AsyncCircuitBreaker,
    request: RebaseRequest,
    record: Callable[[AuditRecord], Awaitable[None]],
) -> Rebased:
    """Begin anew, if the rules of a reset allow it.

    Raises:
        EquityChangeRefused: they don't. NotRebased: there is nothing to begin at. Both are on record, in one row.
        BreakerUnavailable, RedisRefused: Redis can't be asked.
    """
    status = await breaker.get_status()
    incident = incident_of(status)
    try:
        await check_change(settings, status, request, "Not re-based")
        rebased = await begin_anew(settings, request.scope, request.value)
    except (EquityChangeRefused, NotRebased) as error:
        await record(change_row(REBASE_REFUSED, request, incident, {"refused": str(error)}, DENIED))
        raise
    await record(change_row(REBASED, request, incident, rebased.as_details()))
    return rebased


async def check_change(settings: Settings, status: Status, request: EquityChange, not_done: str) -> None:
    """Raise EquityChangeRefused unless a reset's rules let this person change what is judged from.

    Raises InvalidInput too, for a scope that nothing names and by which nothing was ever judged: it was mistyped.
    """
    await _check_scope(settings, request.scope)
    from tasks.checks.conditions import measure_drawdown  # noqa: PLC0415  slow to import

    rules = await rules_in_force(settings, request.scope, request.person, request.permissions, status)
    if status.state is State.OPEN:  # whose incident is over
        rules = replace(rules, tripped_by=(), author="")
    answer = Approval(request.person, request.reason, acknowledge=True, override_reason=request.reason)
    if refusals := refusals_of_reset(answer, rules, []):
        raise EquityChangeRefused(refusals, not_done)
    if refusals := refusals_of_reset(answer, rules, [await measure_drawdown(settings, request.scope)]):
        raise EquityChangeRefused(refusals, not_done)


async def _check_scope(settings: Settings, scope: str) -> None:
    """An engine may judge by a scope that no configuration names; then its equity is recorded."""
    doubt = named_in(settings, scope).doubt or _judged_elsewhere(settings, scope)
    if not doubt:
        return
    try:
        is_judged = await read_equity(settings, scope) is not None
    except ValueError:  # somebody has recorded something
        return
    if not is_judged:
        raise InvalidInput(f"No equity of {scope} is recorded, and {doubt}; nothing changed.")


def _judged_elsewhere(settings: Settings, scope: str) -> str:
    """That the account which the scope names is judged for another breaker; empty where it isn't."""
    name = scope.removeprefix("account:")
    if name == scope or name not in settings.accounts:
        return ""
    judged = monitored_scope(name, settings.accounts)
    return "" if judged == scope else f"the equity of {name} is judged as {judged}: use --scope {judged}"


def incident_of(status: Status) -> str | None:
    """Which incident a change now belongs to; what is OPEN has none."""
    return status.incident_id if status.state is not State.OPEN else None


def change_row(
    action: str, request: EquityChange, incident: str | None, details: Mapping[str, Any], outcome: str = "OK"
) -> AuditRecord:
    """What is recorded of a change, or of its refusal."""
    said = {"reason": request.reason, **({"claimed": request.claimed} if request.claimed else {})}
    return AuditRecord(
        action=action,
        source=request.source,
        user_id=request.person,
        ip_address=request.ip_address,
        details={**said, **details},
        scope=request.scope,
        incident_id=incident,
        outcome=outcome,
    )


def _written_out(amount: str) -> str:
    """Without the exponent that whoever recorded it may have used; as it is where it is no amount."""
    try:
        value = Decimal(amount)
    except InvalidOperation:
        return amount
    return f"{value:f}" if value.is_finite() else amount


def _fallen(reference: str, equity: str) -> str:
    """How far `equity` was below `reference`, in percent; empty for what is no number."""
    try:
        fallen = (Decimal(reference) - Decimal(equity)) / Decimal(reference)
        return f"{max(fallen, Decimal(0)):.2%}"
    except (InvalidOperation, ZeroDivisionError):
        return ""
