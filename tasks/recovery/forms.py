"""Ask people by typed forms, which the orchestrator's UI renders and checks.

The orchestrator knows no people: who answers is what they type there, unless the answer comes through the command line
(login name) or the console (sign-in). Permissions are checked either way.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, Self
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.input import RunInput
from prefect.input.run_input import Keyset
from pydantic import Field, ValidationError

from tasks.recovery.approval_rules import MAX_CAUSE, MAX_REASON, MIN_TEXT, Approval, RootCause
from tasks.recovery.questions import ANSWER_VALID, NoAnswer


class PersonsForm(RunInput):
    @classmethod
    async def aload(cls, keyset: Keyset, flow_run_id: UUID | None = None) -> Self:
        """What somebody answered. Raises NoAnswer where nobody did, or too long ago."""
        try:
            answer = await super().aload(keyset, flow_run_id)
        except (ValidationError, TypeError):
            raise NoAnswer("the run was resumed in Prefect without an answer to this form") from None
        async with get_client() as client:
            kept = await client.filter_flow_run_input(answer.metadata.receiver, keyset["response"], 1, set())
        given = kept[0].created if kept else None
        if given is not None and (datetime.now(UTC) - given).total_seconds() > ANSWER_VALID:
            raise NoAnswer(
                f"the answer of {given:%Y-%m-%d %H:%M} UTC was taken up only more than {ANSWER_VALID / 60:g} minutes "
                "later, and no longer counts"
            )
        return answer


class RootCauseForm(PersonsForm):
    author: str = Field(min_length=1, max_length=128, title="Your name")
    category: Literal["market", "strategy", "data", "venue", "infrastructure", "operator", "other"] = "other"
    root_cause: str = Field(min_length=MIN_TEXT, max_length=MAX_CAUSE, title="Root cause: what happened, and why")
    corrective_action: str = Field(
        min_length=MIN_TEXT,
        max_length=MAX_CAUSE,
        title="Corrective action: what was done, and what keeps it from recurring",
    )

    def answer(self) -> RootCause:
        return RootCause(self.author.strip(), self.category, self.root_cause.strip(), self.corrective_action.strip())


class ApprovalForm(PersonsForm):
    approver: str = Field(min_length=1, max_length=128, title="Your name")
    reason: str = Field(min_length=MIN_TEXT, max_length=MAX_REASON, title="Why trading may resume")
    acknowledge: bool = Field(title="I understand the cause, conditions are normal, and trading will resume")
    override_reason: str = Field(
        default="", max_length=MAX_REASON, title="Only to go on although a condition is red: why"
    )
    rebase_equity: bool = Field(
        default=False,
        title="Begin the high-water mark and the day's first equity anew at the last equity (re-base): a drawdown that "
        "is left as it is trips again at the next measurement",
    )

    def answer(self) -> Approval:
        return Approval(
            self.approver.strip(),
            self.reason.strip(),
            self.acknowledge,
            self.override_reason.strip(),
            self.rebase_equity,
        )
