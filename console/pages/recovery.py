"""Show the Recovery page: the checklist live, the incident report, and the forms that a recovery waits for."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from breaker.errors import BreakerUnavailable, InvalidInput
from breaker.keys import GLOBAL
from console.actions.authorization import Caller
from console.actions.recovery import NEEDED, AnswerRefused
from console.auth.permissions import Permission
from console.context import ConsoleContext
from console.pages.layout import markup, render_page, submitted_form
from console.request import PageScope, caller_of, context_of
from tasks import orchestrator
from tasks.checks.equity import trips_again_of
from tasks.incidents import read_report
from tasks.recovery.approval_rules import CATEGORIES, MAX_CAUSE, MAX_REASON, Approval, RootCause
from tasks.recovery.state import RecoveryState, Tick

router = APIRouter(include_in_schema=False)


@router.get("/recovery")
async def recovery(request: Request, named: PageScope, done: str = "") -> Response:
    caller = await caller_of(request, Permission.VIEW_CIRCUIT)
    context, scope = context_of(request), named.scope
    poller = context.live.recovery(scope)
    poller.watch()
    sample = await poller.sample()
    state = sample.value if isinstance(sample.value, RecoveryState) else None
    return render_page(
        request,
        "recovery.html",
        caller.identity,
        title="Recovery",
        scope=scope,
        state=state,
        done="Answered. The recovery goes on in a moment." if done else "",
        refresh=True,
        topics=[f"recovery:{scope}"],
        checklist=markup(context.render.recovery(sample, scope)),
        has_report=state is not None
        and await asyncio.to_thread(read_report, context.settings.state_dir, state.incident_id) is not None,
        evidence=await _evidence(context, caller, state),
        run_page=None if state is None else await asyncio.to_thread(orchestrator.flow_run_url, state.flow_run_id),
    )


async def _evidence(context: ConsoleContext, caller: Caller, state: RecoveryState | None) -> str | None:
    """What was gathered of the incident: rows of the audit log and log lines, so not for everybody who looks."""
    if state is None or not caller.identity.may(Permission.VIEW_AUDIT):
        return None
    try:
        return await context.recoveries.evidence(state.incident_id)
    except BreakerUnavailable as error:
        return str(error)


@router.get("/recovery/answer")
async def answer_page(request: Request, named: PageScope) -> Response:
    caller = await caller_of(request, Permission.VIEW_CIRCUIT)
    return await _answer_page(request, caller, named.scope)


async def _answer_page(
    request: Request,
    caller: Caller,
    scope: str,
    form: dict[str, str] | None = None,
    problem: str = "",
    status: int = 200,
) -> Response:
    context = context_of(request)
    state = await context.recoveries.waiting(scope)
    await context.authorization.require(caller, NEEDED[state.waiting_for])
    poller = context.live.recovery(scope)
    poller.watch()
    sample, watched, foreseen = await asyncio.gather(
        poller.sample(), context.live.watcher.read(scope), trips_again_of(context.settings, scope)
    )
    return render_page(
        request,
        f"answer_{state.waiting_for.replace('-', '_')}.html",
        caller.identity,
        status=status,
        title="Root Cause" if state.waiting_for == "root-cause" else "Approve the Reset",
        scope=scope,
        watched=watched,
        foreseen=foreseen,
        state=state,
        form=form or {},
        problem=problem,
        topics=[f"recovery:{scope}"],
        checklist=markup(context.render.recovery(sample, scope)),
        categories=CATEGORIES,
        most_cause=MAX_CAUSE,
        most=MAX_REASON,
        two_person=context.settings.recovery.two_person,
        evidence=await _evidence(context, caller, state),
        red=[key for key, item in state.items.items() if item.tick is Tick.RED],
    )


@router.post("/recovery/answer")
async def give_answer(request: Request, named: PageScope) -> Response:
    scope = named.scope
    caller, form = await submitted_form(request)
    try:
        await context_of(request).recoveries.answer(
            caller, scope, _answer_in(form, caller.user), form.get("question", "")
        )
    except (InvalidInput, AnswerRefused) as error:
        return await _answer_page(request, caller, scope, form, str(error), 422)
    query = {"done": "answer"} | ({} if scope == GLOBAL else {"scope": scope})
    return RedirectResponse(f"/recovery?{urlencode(query)}", 303)


def _answer_in(form: dict[str, str], who: str) -> RootCause | Approval:
    """What the form says; who says so is whoever has signed in."""

    def text(name: str) -> str:
        return form.get(name, "").replace("\r\n", "\n").strip()

    if form.get("form") == "root-cause":
        return RootCause(who, text("category"), text("root_cause"), text("corrective_action"))
    return Approval(
        who,
        text("reason"),
        form.get("acknowledge") == "yes",
        text("override_reason"),
        form.get("rebase_equity") == "yes",
    )
