"""Give a recovery what a person answers: judge it first as the flow will, then submit it to the suspended run."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING

from breaker.errors import BreakerError
from configuration.settings import Settings
from ledger.record import DENIED, AuditRecord
from tasks import orchestrator
from tasks.checks.measurement import Measurement
from tasks.recovery.approval_rules import Approval, ApprovalRules, RootCause, refuse_approval, refuse_root_cause
from tasks.recovery.state import RecoveryState

if TYPE_CHECKING:
    from prefect.input import RunInput

DEADLINE = 30.0
"""Seconds that the orchestrator may take for an answer, retries of its client included."""


class AnswerNotTaken(BreakerError):
    """The answer did not get to the run, which still waits; with `may_have_happened` it may have got there."""

    def __init__(self, message: str, *, may_have_happened: bool = False) -> None:
        super().__init__(message)
        self.may_have_happened = may_have_happened


async def refusal_of(answer: RootCause | Approval, rules: ApprovalRules, settings: Settings, scope: str) -> str | None:
    """Why the flow would refuse this answer, as a sentence; None if it would not. For an approval this measures."""
    if isinstance(answer, RootCause):
        return refuse_root_cause(answer, rules)
    return refuse_approval(answer, rules, await _measure(settings, scope))


def refusal_record(
    state: RecoveryState, who: str, refusal: str, source: str, ip_address: str | None = None
) -> AuditRecord:
    """What the ledger keeps of an answer that was refused."""
    return AuditRecord(
        action="RECOVERY_ANSWER_REFUSED",
        source=source,
        user_id=who,
        details={"form": state.waiting_for, "refused": refusal},
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
            await aresume_flow_run(UUID(state.flow_run_id), run_input=_form(answer).model_dump(mode="json"))
    except (NotPausedError, FlowPauseTimeout, ObjectNotFound, RuntimeError) as error:
        raise AnswerNotTaken(f"the recovery's run takes no answer now ({error})") from None
    except (httpx.HTTPError, TimeoutError) as error:
        raise AnswerNotTaken(
            f"the orchestrator did not confirm the answer ({type(error).__name__}: {error}); "
            "look whether the recovery still waits",
            may_have_happened=True,
        ) from None


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
    )


async def _measure(settings: Settings, scope: str) -> list[Measurement]:
    # All that measuring needs is imported first: done meanwhile, it would count as slowness of what is measured.
    for module in ("prefect.client.orchestration", "redis.asyncio", "ledger.health"):
        importlib.import_module(module)
    from tasks.checks.conditions import measure_conditions  # noqa: PLC0415  slow to import
    from tasks.checks.system import measure_health  # noqa: PLC0415

    found = await asyncio.gather(measure_conditions(settings, scope), measure_health(settings))
    return [measurement for group in found for measurement in group]
