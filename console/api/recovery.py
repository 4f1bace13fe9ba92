"""Serve `/recovery`: where the latest recovery stands, and answers to what it waits for."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request

from console.api.models import ItemBody, RecoveryAnswer, RecoveryBody, RootCauseAnswer
from console.api.parameters import AnyCaller, Scope, Viewer, problems
from console.api.problems import ApiProblem
from console.request import context_of
from tasks.recovery.approval_rules import Approval, RootCause
from tasks.recovery.checklist import CHECKLIST
from tasks.recovery.state import RecoveryState

router = APIRouter(tags=["recovery"])


@router.get("/recovery", responses=problems(404), summary="Where the latest recovery stands (VIEW_CIRCUIT)")
async def get_recovery(request: Request, _: Viewer, named: Scope) -> RecoveryBody:
    """The checklist with its ticks, and what it waits for."""
    state = await context_of(request).recoveries.read(named.scope)
    if state is None:
        raise ApiProblem(404, "no-recovery", "No recovery", f"No recovery of {named.scope} is on record.")
    return _recovery_body(state)


@router.post(
    "/recovery/answer",
    status_code=202,
    responses=problems(409),
    summary="Answer what it waits for (APPROVE_RECOVERY, RESET_CIRCUIT)",
)
async def answer_recovery(request: Request, caller: AnyCaller, body: RecoveryAnswer, named: Scope) -> RecoveryBody:
    """Judged before it is given to the flow, which judges it once more. Returns the recovery as it was before."""
    if isinstance(body, RootCauseAnswer):
        cause, action = body.root_cause.strip(), body.corrective_action.strip()
        answer: RootCause | Approval = RootCause(caller.user, body.category, cause, action)
    else:
        reason, override = body.reason.strip(), body.override_reason.strip()
        answer = Approval(caller.user, reason, body.acknowledge, override, body.rebase_equity)
    return _recovery_body(await context_of(request).recoveries.answer(caller, named.scope, answer, body.question))


def _recovery_body(state: RecoveryState) -> RecoveryBody:
    items = [
        ItemBody(section=section.title, key=item.key, words=item.words, **asdict(state.item(item.key)))
        for section in CHECKLIST
        for item in section.items
    ]
    names = RecoveryBody.model_fields.keys() - {"items"}
    return RecoveryBody(items=items, **{name: getattr(state, name) for name in names})
