"""Give a recovery what a person answers: judge it first as the flow will, then submit it to the suspended run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from breaker.errors import BreakerError
from configuration.settings import Settings
from ledger.record import DENIED, AuditRecord
from tasks import orchestrator
from tasks.recovery.approval_rules import (
    Approval,
    ApprovalRules,
    RootCause,
    in_words,
    refusals_of_reset,
    refuse_root_cause,
)
from tasks.recovery.reset import measure_for_reset
from tasks.recovery.state import RecoveryState, cancelled_sentence

if TYPE_CHECKING:
    from prefect.input import RunInput

DEADLINE = 30.0
"""Seconds that the orchestrator may take for an answer, retries of its client included."""


class AnswerNotTaken(BreakerError):
    """The answer did not get to the run, which still waits; with `may_have_happened` it may have got there."""

    def __init__(self, message: str, *, may_have_happened: bool = False) -> None:
        super().__init__(message)
        self.may_have_happened = may_have_happened


async def refusal_of(
    answer: RootCause | Approval, rules: ApprovalRules, settings: Settings, state: RecoveryState
) -> str | None:
    """Why the flow would refuse this answer, as a sentence; None if it would not. For an approval this measures."""
    if isinstance(answer, RootCause):
        return refuse_root_cause(answer, rules)
    if refused := refusals_of_reset(answer, rules, []):
        return in_words(refused)
    measured = await measure_for_reset(settings, state.scope, state.incident_id, state.flow_run_id)
    return in_words(refusals_of_reset(answer, rules, measured)) or None


def refusal_record(
    state: RecoveryState, who: str, refusal: str, source: str, ip_address: str | None = None, *, claimed: str = ""
) -> AuditRecord:
    """What the ledger keeps of an answer that was refused. `claimed` is a name that was only typed."""
    said = {"claimed": claimed} if claimed else {}
    return AuditRecord(
        action="RECOVERY_ANSWER_REFUSED",
        source=source,
        user_id=who,
        details={"form": state.waiting_for, "refused": refusal, **said},
        incident_id=state.incident_id,
        scope=state.scope,
        flow_run_id=state.flow_run_id,
        ip_address=ip_address,
        outcome=DENIED,
    )


async def submit_answer(state: RecoveryState, answer: RootCause | Approval) -> None:
    """Resume the suspended run with this answer. Raises AnswerNotTaken."""
    if not orchestrator.is_configured():
        raise AnswerNotTaken("no orchestrator is configured, so nobody takes the answer; set PREFECT_API_URL")
    from uuid import UUID  # noqa: PLC0415

    import httpx  # noqa: PLC0415
    from prefect.exceptions import FlowPauseTimeout, NotPausedError, ObjectNotFound  # noqa: PLC0415
    from prefect.flow_runs import aresume_flow_run  # noqa: PLC0415

    try:
        async with asyncio.timeout(DEADLINE):
            # Without what is left at its default: a run that asked before an upgrade knows no newer question.
            given = _form(answer).model_dump(mode="json", exclude_defaults=True)
            await aresume_flow_run(UUID(state.flow_run_id), run_input=given)
    except (NotPausedError, FlowPauseTimeout, ObjectNotFound, RuntimeError):
        raise AnswerNotTaken(await _why_not_taken(state)) from None
    except (httpx.HTTPError, TimeoutError) as error:
        raise AnswerNotTaken(
            f"the orchestrator did not confirm the answer: {orchestrator.describe_failure(error)}; "
            "look whether the recovery still waits",
            may_have_happened=True,
        ) from None


async def _why_not_taken(state: RecoveryState) -> str:
    """In our own words: the orchestrator's tell nobody what to do."""
    from uuid import UUID  # noqa: PLC0415

    import httpx  # noqa: PLC0415
    from prefect.exceptions import PrefectException  # noqa: PLC0415

    try:
        if await orchestrator.how_cancelled(UUID(state.flow_run_id)):
            return cancelled_sentence(state.scope)
    except (httpx.HTTPError, TimeoutError, PrefectException):
        pass  # it answered a moment ago, so what holds of most runs that take no answer is said
    return "the recovery's run does not wait for an answer now: somebody else may have given it, or it is at work"


def _form(answer: RootCause | Approval) -> RunInput:
    from tasks.recovery.forms import ApprovalForm, RootCauseForm  # noqa: PLC0415  slow to import

    if isinstance(answer, RootCause):
        return RootCauseForm(
            author=answer.author,
            category=answer.category,
            root_cause=answer.root_cause,
            corrective_action=answer.corrective_action,
        )
    return ApprovalForm(
        approver=answer.approver,
        reason=answer.reason,
        acknowledge=answer.acknowledge,
        override_reason=answer.override_reason,
        rebase_equity=answer.rebase_equity,
    )
