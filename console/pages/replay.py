"""Show when a rule would have tripped on what was recorded, by another limit: a chart, and its numbers as a table."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from breaker import BreakerError
from breaker.errors import InvalidInput
from breaker.limits import Rule
from breaker.rule_table import RULE_TABLE
from configuration.breakers import limits_from
from configuration.monitor import monitored_scope
from console.auth.permissions import Permission
from console.context import ConsoleContext
from console.pages.layout import render_page
from console.replay_chart import HEIGHT, WIDTH, chart_of, parts_of
from console.replays import Replayed, ReplayRequest
from console.request import PageScope, caller_of, context_of
from tasks.rules_replay import REPLAYED

_UNLESS_GIVEN = timedelta(days=1)
_SMALL = Decimal("0.001")
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class _Shown:
    """A chart and its table, and how values of this rule are written."""

    rule: Rule
    replayed: Replayed

    def write(self, value: Decimal) -> str:
        """As a percentage, with more decimals where two would say 0, or as an amount."""
        if not RULE_TABLE[self.rule].unit.startswith("fraction"):
            return f"{value:,.2f}"
        return f"{value:.4%}" if 0 < abs(value) < _SMALL else f"{value:.2%}"

    def values(self) -> dict[str, Any]:
        limit = self.replayed.limit
        known = {"write": self.write, "limit": limit, "readings": len(self.replayed.measured)}
        if not self.replayed.measured:
            return known
        parts = parts_of(self.replayed.measured)
        chart = chart_of(parts, limit, {limit: self.write(limit), Decimal(0): self.write(Decimal(0))})
        size = {"width": WIDTH, "height": HEIGHT}
        return {**known, **size, "parts": parts, "chart": chart, "trips": sum(part.trips for part in parts)}


@router.get("/circuit-breaker/replay")
async def replay(request: Request, named: PageScope) -> Response:
    caller = await caller_of(request, Permission.VIEW_CIRCUIT)
    context, form = context_of(request), dict(request.query_params)
    values: dict[str, Any] = {"chart": None, "readings": None}
    problem, status = "", 200
    if form.get("rule"):
        try:
            asked = _asked(context, named.scope, form)
            shown = _Shown(asked.rule, await context.replays.run(asked))
            values |= await asyncio.to_thread(shown.values)  # of a week it takes long enough to be felt elsewhere
        except InvalidInput as error:
            problem, status = str(error), 422
        except BreakerError as error:
            problem, status = str(error), 503
    return render_page(
        request,
        "replay.html",
        caller.identity,
        status=status,
        title="What Would Have Tripped",
        scope=named.scope,
        doubt=named.doubt,
        account=_account_of(context, named.scope),
        rules=[
            (rule, RULE_TABLE[rule], RULE_TABLE[rule].limit(limits_from(context.settings, named.scope)))
            for rule in REPLAYED
        ],
        form=form,
        problem=problem,
        **values,
    )


def _account_of(context: ConsoleContext, scope: str) -> str:
    """The account that is judged for this breaker; empty where none is."""
    accounts = context.settings.accounts
    return next((name for name in accounts if monitored_scope(name, accounts) == scope), "")


def _asked(context: ConsoleContext, scope: str, form: dict[str, str]) -> ReplayRequest:
    """Raises InvalidInput."""
    account = _account_of(context, scope)
    if not account:
        raise InvalidInput(f"No account is monitored as {scope}, so nothing of it is recorded.")
    if form["rule"] not in REPLAYED:
        raise InvalidInput(f"{form['rule']!r:.40} is no rule that can be replayed: {', '.join(REPLAYED)}.")
    rule, limit = Rule(form["rule"]), form.get("limit", "").strip()
    if not limit and RULE_TABLE[rule].limit(limits_from(context.settings, scope)) is None:
        raise InvalidInput(f"{rule} is off: give a limit to try ({RULE_TABLE[rule].unit}).")
    until = _moment(form.get("until", ""), datetime.now(UTC))
    since = _moment(form.get("since", ""), until - _UNLESS_GIVEN)
    if not _FIRST <= since < until:
        raise InvalidInput("From has to be before until; nothing was replayed.")
    return ReplayRequest(account, scope, rule, limit, since, until)


def _moment(text: str, otherwise: datetime) -> datetime:
    """What a browser's field for a time gives, in UTC. Raises InvalidInput."""
    if not text.strip():
        return otherwise
    try:
        return datetime.fromisoformat(text.strip()).replace(tzinfo=UTC)
    except ValueError:
        raise InvalidInput(f"{text!r:.40} is no time, such as 2026-03-02T14:30; nothing was replayed.") from None
