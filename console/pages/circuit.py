"""Show the Circuit Breaker page and its forms: trip, reset, kill switch, money moved."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from breaker import BreakerError, State
from breaker.errors import InvalidInput, NotHalted
from breaker.keys import GLOBAL
from brokers.coverage import Coverage, NamedScope
from configuration.reasons import KILL_CONFIRMATION
from console.actions.authorization import Caller
from console.actions.equity import BEYOND
from console.actions.idempotency import usable_event_id
from console.auth.permissions import Permission
from console.context import ConsoleContext
from console.pages.layout import markup, message_page, render_page, submitted_form
from console.request import PageScope, caller_of, context_of
from tasks.checks.equity import read_equity, trips_again_of
from tasks.checks.measurement import Colour
from tasks.recovery.approval_rules import Rule
from tasks.recovery.rebase import EquityChangeRefused
from tasks.recovery.reset import ResetRefused

_DONE: Mapping[str, tuple[State | None, str, str]] = {
    "trip": (State.TRIPPED, "good", "Tripped. Only orders that reduce risk pass from now on."),
    "unconfirmed": (
        State.TRIPPED,
        "warn",
        "Tripped. Only orders that reduce risk pass from now on; but Redis has not confirmed in time that the trip "
        "outlives a crash of its own (trip_durability).",
    ),
    "pending": (
        State.UNKNOWN,
        "bad",
        "Not told to Redis, which is away. The trip is kept here and made as soon as Redis is back.",
    ),
    "reset": (State.QUIET_PERIOD, "good", "Reset. A quiet period has begun."),
    "rebased": (
        State.QUIET_PERIOD,
        "good",
        "Reset; the high-water mark begins anew at the last equity. A quiet period has begun.",
    ),
    "transferred": (
        None,
        "good",
        "Recorded. The high-water mark and the day’s first equity move with it; the audit log says what came of it.",
    ),
    "transfer_trips": (
        State.TRIPPED,
        "bad",
        "Recorded. By that the equity is beyond its limit, and the breaker is tripped.",
    ),
    "unrebased": (
        State.QUIET_PERIOD,
        "bad",
        "Reset, but the high-water mark did not begin anew: the audit log says why.",
    ),
}
"""What has just been done, said for as long as the breaker is in the state that this led to, if it led to one."""

router = APIRouter(include_in_schema=False)


@router.get("/")
async def home() -> Response:
    return RedirectResponse("/circuit-breaker", 303)


@router.get("/circuit-breaker")
async def circuit(request: Request, named: PageScope, done: str = "") -> Response:
    caller = await caller_of(request, Permission.VIEW_CIRCUIT)
    context, scope = context_of(request), named.scope
    told = _DONE.get(done)
    if done in ("reset", "unrebased") and (foreseen := await trips_again_of(context.settings, scope)):
        state, _, words = _DONE[done]
        told = (state, "warn", f"{words} But {foreseen}.")
    reset_watch = context.live.reset_watch(scope)
    reset_watch.watch()
    watched, watch, history, exits, locks = await asyncio.gather(
        context.live.watcher.read(scope),
        reset_watch.sample(),
        context.live.history(scope),
        context.live.pending_exits(),
        context.live.venue_locks(),
    )
    account = await _account_alone(context, scope)
    return render_page(
        request,
        "circuit.html",
        caller.identity,
        title="Circuit Breaker",
        scope=scope,
        doubt=named.doubt,
        watched=watched,
        done=told,
        refresh=True,
        reset_watch=markup(context.live.render_reset_watch(watched, watch)),
        pending=markup(context.render.pending(context.waiting_trips())),
        pending_exits=markup(context.render.pending_exits(exits)),
        venue_locks=markup(context.render.venue_locks(locks)),
        topics=[
            "pending",
            "pending_exits",
            "venue_locks",
            "kills",
            f"state:{scope}",
            f"reset_watch:{scope}",
            f"conditions:{scope}",
            f"rules:{scope}",
            "exposure" if account is None else f"exposure:{account.scope}",
            f"history:{scope}",
            "scopes",
        ],
        conditions=markup(context.render.measurements(context.live.conditions(scope).watch())),
        rules=markup(context.render.rules(context.live.rules(scope).watch())),
        exposed=account,
        exposure=markup(
            context.render.exposure(context.live.exposure.watch())
            if account is None
            else context.live.exposure_of(account)
        ),
        history=markup(context.render.history(history)),
        scopes=markup(context.render.scopes(context.live.watcher.all())),
        kills=markup(context.render.kills(context.kills.all())),
    )


async def _account_alone(context: ConsoleContext, scope: str) -> Coverage | None:
    """What the breaker of a configured account covers; None for one that may concern every account."""
    if not scope.startswith("account:"):
        return None
    try:
        return await context.kills.coverage(scope)
    except InvalidInput:  # of no account that is configured; any may be meant
        return None


@dataclass(frozen=True, slots=True)
class SubmittedForm:
    """One of the forms as a caller has filled it in."""

    context: ConsoleContext
    caller: Caller
    scope: str
    fields: Mapping[str, str]

    @property
    def reason(self) -> str:
        return self.fields.get("reason", "")

    @property
    def event_id(self) -> str:
        """The id that the form came with: sent twice, it acts once."""
        return usable_event_id(self.fields.get("event_id", ""))


Values = Callable[[ConsoleContext, str], Awaitable[dict[str, Any]]]
Act = Callable[[SubmittedForm], Awaitable[str]]


def _form(name: str, title: str, needed: Permission, values: Values, act: Act, *, act_judges: bool = False) -> None:
    """A form at /circuit-breaker/`name`. `values` are what its page shows of a scope; `act` returns where to go on.

    With `act_judges` it is `act` that refuses whoever lacks the permission, by the rules of every other way in.
    """

    async def shown(
        request: Request,
        caller: Caller,
        named: NamedScope,
        fields: Mapping[str, str],
        problem: str = "",
        status: int = 200,
    ) -> Response:
        shown = await values(context_of(request), named.scope)
        known = {"title": title, "scope": named.scope, "doubt": named.doubt, "form": fields, "problem": problem}
        event_id = usable_event_id(fields.get("event_id", ""))
        return render_page(request, f"{name}.html", caller.identity, status=status, event_id=event_id, **known, **shown)

    async def page(request: Request, named: PageScope) -> Response:
        caller = await caller_of(request, needed)
        return await shown(request, caller, named, {})

    async def send(request: Request, named: PageScope) -> Response:
        caller, fields = await submitted_form(request, None if act_judges else needed)
        try:
            if fields.get("acknowledge") != "yes":
                raise InvalidInput("The acknowledgement isn't checked; nothing changed.")  # noqa: TRY301
            return RedirectResponse(await act(SubmittedForm(context_of(request), caller, named.scope, fields)), 303)
        except InvalidInput as error:
            return await shown(request, caller, named, fields, str(error), 422)
        except NotHalted as error:
            return await shown(request, caller, named, fields, str(error), 503)
        except (ResetRefused, EquityChangeRefused) as error:
            status = 403 if error.rule is Rule.PERMISSION else 409
            return await shown(request, caller, named, fields, str(error), status)
        except BreakerError as error:
            return await shown(request, caller, named, fields, str(error), 409)

    router.add_api_route(f"/circuit-breaker/{name}", page, methods=["GET"])
    router.add_api_route(f"/circuit-breaker/{name}", send, methods=["POST"])


async def _trip_values(context: ConsoleContext, scope: str) -> dict[str, Any]:
    return {"watched": await context.live.watcher.read(scope)}


async def _trip(form: SubmittedForm) -> str:
    try:
        status = await form.context.trip_reset.trip(form.caller, form.scope, form.reason, form.event_id)
    except NotHalted as error:
        if not error.pending:
            raise
        return _back(form.scope, "pending")
    return _back(form.scope, "unconfirmed" if status.unconfirmed else "trip")


async def _reset_values(context: ConsoleContext, scope: str) -> dict[str, Any]:
    poller = context.live.conditions(scope)
    poller.watch()
    watched, sample, foreseen = await asyncio.gather(
        context.live.watcher.read(scope), poller.sample(), trips_again_of(context.settings, scope)
    )
    return {
        "watched": watched,
        "foreseen": foreseen,
        "topics": [f"conditions:{scope}"],
        "conditions": markup(context.render.measurements(sample)),
        "red": [found.name for found in sample.value if found.colour is Colour.RED],
        "two_person": context.settings.recovery.two_person,
    }


async def _reset(form: SubmittedForm) -> str:
    epoch = form.fields.get("epoch", "")
    outcome = await form.context.trip_reset.reset(
        form.caller,
        form.scope,
        form.reason,
        acknowledge=True,
        override_reason=form.fields.get("override_reason", ""),
        rebase_equity=form.fields.get("rebase_equity") == "yes",
        # What was looked at is what is reset: a trip that came in the meantime is not undone.
        expected_epoch=int(epoch) if epoch.isascii() and epoch.isdigit() and len(epoch) < 17 else None,
        event_id=form.event_id,
    )
    return _back(form.scope, "rebased" if outcome.rebased else "unrebased" if outcome.unrebased else "reset")


async def _kill_values(context: ConsoleContext, scope: str) -> dict[str, Any]:
    coverage = await context.kills.coverage(scope)
    exposure = markup(context.live.exposure_of(coverage))
    return {
        "topics": [f"exposure:{coverage.scope}"],
        "exposure": exposure,
        "coverage": coverage,
        "word": KILL_CONFIRMATION,
    }


async def _kill(form: SubmittedForm) -> str:
    if form.fields.get("confirm", "").strip() != KILL_CONFIRMATION:
        raise InvalidInput(f"{KILL_CONFIRMATION} was not typed; nothing changed, not even halted.")
    started = await form.context.kills.start(form.caller, form.scope, form.reason, event_id=form.event_id)
    return f"/kill/{started.incident_id}"


async def _transfer_values(context: ConsoleContext, scope: str) -> dict[str, Any]:
    try:
        return {"held": await read_equity(context.settings, scope)}
    except (BreakerError, ValueError):
        return {"held": None}


async def _transfer(form: SubmittedForm) -> str:
    fields, transfers = form.fields, form.context.transfers
    request = transfers.request(
        form.caller,
        form.scope,
        fields.get("amount", ""),
        form.reason,
        _moment(fields.get("at", "")),
        fields.get("transfer_id", ""),
        form.event_id,
    )
    outcome = await transfers.tell(form.caller, request)
    return _back(form.scope, "transfer_trips" if outcome.verdict in BEYOND else "transferred")


def _moment(text: str) -> datetime | None:
    """What a browser's field for a time gives, in UTC; None for nothing. Raises InvalidInput."""
    if not text.strip():
        return None
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidInput(f"{text!r:.40} is no time, such as 2026-03-02T14:30:00; nothing changed.") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _back(scope: str, done: str) -> str:
    query = {"done": done} | ({} if scope == GLOBAL else {"scope": scope})
    return f"/circuit-breaker?{urlencode(query)}"


_form("trip", "Trip", Permission.TRIP_CIRCUIT, _trip_values, _trip)
_form("reset", "Reset", Permission.RESET_CIRCUIT, _reset_values, _reset, act_judges=True)
_form("kill", "Kill Switch", Permission.KILL_SWITCH, _kill_values, _kill)
_form("transfer", "Money Moved", Permission.RESET_CIRCUIT, _transfer_values, _transfer, act_judges=True)


@router.get("/kill/{incident_id}")
async def kill_run(request: Request, incident_id: str) -> Response:
    caller = await caller_of(request, Permission.VIEW_CIRCUIT)
    context = context_of(request)
    runs = context.kills.of(incident_id)
    if not runs:
        text = "No kill switch of that incident is known of the last day. The audit log has every run."
        return message_page(request, caller.identity, 404, "Not found", text)
    return render_page(
        request,
        "kill_run.html",
        caller.identity,
        title=f"Kill Switch {runs[0].verdict}",
        incident_id=incident_id,
        runs=markup(context.render.kill_runs(runs)),
        pending=markup(context.render.pending(context.waiting_trips())),
        pending_exits=markup(context.render.pending_exits(await context.live.pending_exits())),
        venue_locks=markup(context.render.venue_locks(await context.live.venue_locks())),
        topics=["pending", "pending_exits", "venue_locks", f"kill:{incident_id}"],
        refresh=not all(run.over for run in runs),
    )
