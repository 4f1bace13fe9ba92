"""Ask people by typed forms, which the orchestrator's UI renders and checks.

The orchestrator knows no people: who answers is what they type there, unless the answer comes through the command line
(login name) or the console (sign-in). Permissions are checked either way.
"""

from __future__ import annotations

from typing import Literal

from prefect.input import RunInput
from pydantic import Field

from tasks.recovery.approval_rules import MAX_CAUSE, MAX_REASON, MIN_TEXT, Approval, RootCause


class RootCauseForm(RunInput):
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


class ApprovalForm(RunInput):
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
