"""Answer errors of the API as problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from breaker import BreakerError
from breaker.errors import (
    BreakerUnavailable,
    InvalidInput,
    NotHalted,
    NotTripped,
    RedisRefused,
    ResetRateLimited,
    StateConflict,
)
from console.actions.authorization import Denied
from console.actions.recovery import AnswerRefused, NothingAsked
from ledger.errors import InvalidRecord, LedgerError
from tasks.recovery.answers import AnswerNotTaken
from tasks.recovery.approval_rules import Rule
from tasks.recovery.rebase import EquityChangeRefused
from tasks.recovery.reset import ResetRefused

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """What went wrong (RFC 9457). `type` says which of the documented problems it is; `detail` is for people."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["/problems/not-tripped"])
    title: str = Field(examples=["The breaker is not tripped"])
    status: int = Field(examples=[409])
    detail: str = Field(examples=["The breaker is OPEN, not TRIPPED: no reset is needed. Nothing changed."])


@dataclass(eq=False)
class ApiProblem(Exception):
    """Raised by the API itself. Not frozen: whoever catches an exception sets its traceback."""

    status: int
    kind: str
    title: str
    detail: str


_KINDS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (Denied, 403, "permission-denied", "The permission is missing"),
    (InvalidInput, 422, "invalid-input", "The request can't be used"),
    (InvalidRecord, 422, "invalid-input", "The request can't be used"),
    (NotTripped, 409, "not-tripped", "The breaker is not tripped"),
    (ResetRateLimited, 429, "reset-rate-limited", "Rate limit exceeded"),
    (StateConflict, 409, "state-conflict", "The state is not the expected one"),
    (BreakerUnavailable, 503, "redis-unavailable", "Redis gave no answer"),
    (NotHalted, 503, "not-halted", "Redis could not be told of the trip"),
    (RedisRefused, 503, "redis-refused", "Redis refused"),
    (NothingAsked, 409, "nothing-asked", "The recovery doesn't wait for this"),
    (AnswerRefused, 409, "answer-refused", "The answer breaks a rule"),
    (AnswerNotTaken, 503, "answer-not-taken", "The orchestrator did not take the answer"),
    (BreakerError, 409, "refused", "Refused"),
    (LedgerError, 503, "ledger-unavailable", "The audit log can't be read"),
)


_REFUSED_BY: tuple[tuple[Rule, int, str, str], ...] = (
    (Rule.PERMISSION, 403, "permission-denied", "The permission is missing"),
    (Rule.SECOND_PERSON, 409, "second-person-needed", "Somebody else has to do this"),
    (Rule.REQUEST, 422, "invalid-input", "The request can't be used"),
    (Rule.CONDITIONS, 409, "conditions-red", "Conditions are red"),
)


def problem_of(error: Exception) -> JSONResponse:
    """The answer to an error of ours. Anything else is not turned into an answer: KeyError."""
    if isinstance(error, ApiProblem):
        return problem(error.status, error.kind, error.title, error.detail)
    if isinstance(error, ResetRefused | EquityChangeRefused):
        found: dict[str, object] = {}
        if error.refusals[0].permission:
            found["permission"] = error.refusals[0].permission
        if isinstance(error, ResetRefused) and error.red:
            found["conditions"] = [measurement.as_dict() for measurement in error.red]
        _, status, kind, title = next(row for row in _REFUSED_BY if row[0] is error.rule)
        return problem(status, kind, title, str(error), found)
    for cls, status, kind, title in _KINDS:
        if isinstance(error, cls):
            extra: dict[str, object] = {}
            headers: dict[str, str] = {}
            if isinstance(error, ResetRateLimited):
                extra["retry_after"] = error.retry_after
                headers["Retry-After"] = str(int(error.retry_after) + 1)
            if isinstance(error, BreakerUnavailable | AnswerNotTaken):
                extra |= {"may_have_happened": error.may_have_happened}
            if isinstance(error, NotHalted):
                extra["pending"] = error.pending
            if isinstance(error, Denied):
                extra["permission"] = error.permission.value
            return problem(status, kind, title, str(error), extra, headers)
    raise KeyError(type(error))


def problem(
    status: int,
    kind: str,
    title: str,
    detail: str,
    extra: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    body = {"type": f"/problems/{kind}", "title": title, "status": status, "detail": detail, **(extra or {})}
    return JSONResponse(body, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)
