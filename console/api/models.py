"""Model what the API takes and gives, as its OpenAPI document describes it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from breaker import State
from breaker.trip_reasons import TripReason
from configuration.reasons import KILL_CONFIRMATION, MAX_REASON, MIN_REASON
from console.api.parameters import Moment
from tasks.recovery.approval_rules import MAX_CAUSE, MIN_TEXT
from tasks.recovery.approval_rules import MAX_REASON as MAX_LENGTH

_Reason = Annotated[
    str,
    Field(
        min_length=MIN_REASON,
        max_length=MAX_REASON,
        description=f"Why, in one line of {MIN_REASON} to {MAX_REASON} characters.",
    ),
]


_Why = Annotated[
    str,
    Field(
        description=f"Why, in one line of up to {MAX_REASON} characters; whatever else it is, it halts: line breaks "
        "are kept as blanks, what is longer is cut. Say what was seen: others will ask.",
    ),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TripRequest(_Body):
    reason: _Why = Field(examples=["Unusual market volatility detected, halting for review"])
    acknowledge: Literal[True] = Field(description="Trading halts until somebody resets it.")


class ResetRequest(_Body):
    reason: _Reason = Field(examples=["Market conditions normalized, system health verified, resuming trading"])
    acknowledge: Literal[True] = Field(description="The cause is understood and the conditions have been looked at.")
    expected_epoch: int | None = Field(
        default=None, ge=0, le=2**53 - 2, description="Refuse if the state has changed since it had this epoch."
    )
    override_reason: str = Field(
        default="",
        max_length=MAX_REASON,
        description=f"Why to reset although something is red: {MIN_REASON} characters or more. It needs "
        "APPROVE_RECOVERY too, and is recorded.",
    )
    rebase_equity: bool = Field(
        default=False,
        description="Begin the high-water mark and the day's first equity anew at the last equity, right after the "
        "reset: a drawdown trips again otherwise. Recorded.",
    )


class EquityTransferRequest(_Body):
    amount: str = Field(
        pattern=r"^-?[0-9]{1,20}(\.[0-9]{1,20})?$",
        description="In the account's currency, with a minus for what left it.",
        examples=["-250000"],
    )
    reason: _Reason = Field(examples=["250k moved to the custodian, confirmed by them"])
    at: Moment | None = Field(default=None, description="When it was moved; now unless given.")
    transfer_id: str | None = Field(
        default=None, min_length=1, max_length=200, description="The bank's or venue's id; the same one counts once."
    )


class KillRequest(_Body):
    reason: _Why = Field(examples=["Exchange reports fills that our engine never sent"])
    acknowledge: Literal[True] = Field(description="The scope's orders are cancelled, its positions closed.")
    confirm: Literal["FLATTEN"] = Field(description=f"The word {KILL_CONFIRMATION}.")
    accounts: list[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(
        default=None,
        max_length=100,
        description="Only these of the scope's accounts; all of them otherwise.",
        examples=[["ALPHA"]],
    )


_CAUSE = "the quote feed went stale after its failover"
_ACTION = "feed pinned to its primary, alarm added on its age"


class _Answer(_Body):
    question: str | None = Field(
        default=None, max_length=64, description="Refuse if the recovery waits for another question than this by now."
    )


class RootCauseAnswer(_Answer):
    """Answers `waiting_for: root-cause` (APPROVE_RECOVERY)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"form": "root-cause", "category": "data", "root_cause": _CAUSE, "corrective_action": _ACTION}]
        }
    )

    form: Literal["root-cause"]
    category: Literal["market", "strategy", "data", "venue", "infrastructure", "operator", "other"]
    root_cause: str = Field(min_length=MIN_TEXT, max_length=MAX_CAUSE, description="What happened, and why.")
    corrective_action: str = Field(
        min_length=MIN_TEXT, max_length=MAX_CAUSE, description="What was done, and what keeps it from recurring."
    )


class ApprovalAnswer(_Answer):
    """Answers `waiting_for: approval` (RESET_CIRCUIT; to override red conditions APPROVE_RECOVERY too)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"form": "approval", "reason": "Feed pinned, data checked, book is flat", "acknowledge": True}]
        }
    )

    form: Literal["approval"]
    reason: str = Field(min_length=MIN_TEXT, max_length=MAX_LENGTH, description="Why trading may resume.")
    acknowledge: Literal[True] = Field(description="The cause is understood, and trading will resume.")
    override_reason: str = Field(
        default="", max_length=MAX_LENGTH, description="Why to go on although something is red. Recorded."
    )
    rebase_equity: bool = Field(
        default=False, description="Begin the high-water mark anew with the reset, as for the reset itself."
    )


RecoveryAnswer = Annotated[RootCauseAnswer | ApprovalAnswer, Field(discriminator="form")]


class ItemBody(BaseModel):
    """One item of the checklist."""

    section: str = Field(examples=["Verify Conditions Normalized"])
    key: str = Field(examples=["drawdown"])
    words: str = Field(examples=["Drawdown within limits"])
    tick: Literal["pending", "working", "green", "yellow", "red", "overridden"]
    at: str = Field(description="ISO 8601; empty while pending.")
    by: str
    evidence: str


class RecoveryBody(BaseModel):
    """Where the latest recovery of a breaker stands."""

    incident_id: str
    scope: str = Field(examples=["global"])
    flow_run_id: str
    round: int = Field(description="Grows when the watch trips again and the checklist is begun anew.")
    phase: str = Field(examples=["waiting for a person: approval"])
    waiting_for: str = Field(examples=["approval"], description="`root-cause`, `approval`, or empty.")
    waiting_since: str
    question: str = Field(examples=["approval-1-1"], description="Which asking it is.")
    problem: str = Field(description="Why the last answer was refused, or why the checklist was reopened.")
    author: str = Field(description="Who wrote the root cause.")
    done: bool
    items: list[ItemBody]


class StatusBody(BaseModel):
    """A breaker's state. Fields beside these are what else is stored with it."""

    model_config = ConfigDict(extra="allow")

    scope: str = Field(
        examples=["global"], description="Names as they are configured: `account:alpha` is `account:ALPHA`."
    )
    scope_doubt: str | None = Field(
        default=None, description="Why no gate may be watching this breaker; null for one that the configuration knows."
    )
    state: State
    as_of: datetime | None = Field(description="Redis's time at which it was so; null if Redis didn't answer.")
    tripped_at: datetime | None = None
    trip_reason: str | None = Field(default=None, examples=[TripReason.MANUAL.value])
    tripped_by: str | None = None
    incident_id: str | None = None
    epoch: int | None = None
    problem: str | None = Field(default=None, description="Why the state is UNKNOWN.")
    unconfirmed: str | None = Field(
        default=None, description="Why the trip is not known to outlive a crash of Redis (`trip_durability`)."
    )
    equity_warning: str | None = Field(
        default=None,
        description="While it is TRIPPED, and after a reset: that the next measurement of equity trips again, with the "
        "figures; or why the high-water mark did not begin anew.",
    )


class RestrictedBody(BaseModel):
    """The state of a breaker that is not OPEN. Fields beside these are what else is stored with it."""

    model_config = ConfigDict(extra="allow")

    scope: str = Field(examples=["account:ALPHA"])
    state: State
    tripped_at: datetime | None = None
    trip_reason: str | None = None
    tripped_by: str | None = None
    problem: str | None = Field(default=None, description="Why the state is UNKNOWN.")


class StatusWithRestricted(StatusBody):
    """A breaker's state; of `global` with the others that are not OPEN."""

    restricted: list[RestrictedBody] | None = Field(
        default=None,
        description="For `global`: every other breaker that is not OPEN, worst first. An engine in that scope may not "
        "open risk although `global` is OPEN.",
    )


class ResetBody(StatusBody):
    """The state after a reset."""

    equity_rebased: str | None = Field(
        default=None,
        description="What the high-water mark was and is, where it began anew; null for a request that is repeated.",
    )


class EquityTransferBody(BaseModel):
    """What came of telling a transfer."""

    scope: str
    amount: str = Field(examples=["-250000"])
    transfer_id: str
    moved_at: datetime
    effect: str = Field(examples=["waits for the first reading that has it"])
    beyond: str | None = Field(
        description="By how much the newest equity is down by it, where that is beyond a limit: the breaker is TRIPPED."
    )


class EventBody(BaseModel):
    """One transition."""

    event_id: str
    transition: str
    scope: str
    from_state: str
    to_state: str
    at: datetime
    by: str
    reason: str
    details: dict[str, Any]
    source: str
    ip_address: str | None
    incident_id: str | None
    epoch: int


class UnreadableBody(BaseModel):
    """What is kept among the transitions and is none."""

    member: str = Field(description="The beginning of its text.")
    problem: str


class History(BaseModel):
    events: list[EventBody]
    unreadable: list[UnreadableBody] = Field(default=[], description="Left out of `events`; it hides nothing else.")


class KillBody(BaseModel):
    """One run of the kill switch."""

    incident_id: str
    verdict: Literal["RUNNING", "FLAT", "NOT FLAT", "DECLINED", "NOT KNOWN"] = Field(
        description="NOT KNOWN: a run of another process that nothing was heard of for ten seconds."
    )
    scope: str = Field(description="Of the breaker that it tripped.")
    covers: str = Field(examples=["ALPHA"], description="What of which accounts it speaks of, and nothing else.")
    operator: str
    source: str = Field(examples=["cli"], description="The way in by which it was asked for.")
    host: str = Field(description="Where it runs, or ran.")
    reason: str
    started_at: datetime
    elapsed: float = Field(description="Seconds.")
    halted: bool
    unconfirmed: str | None = Field(description="Why the trip is not known to outlive a crash of Redis.")
    problem: str = Field(description="Why it could not halt, broke off or is not known; empty otherwise.")
    accounts: list[dict[str, Any]]
    costs: list[dict[str, Any]] | None = Field(
        description="What the exit cost, by account: money as text in the account's currency, null what was not read. "
        "Null as a whole until the fills have been read, after the verdict."
    )
    done_without: list[str]


class AuditRowBody(BaseModel):
    """One row of the audit log, hashes included."""

    model_config = ConfigDict(extra="allow")

    seq: int
    id: str
    timestamp: datetime
    action: str
    user_id: str | None
    details: dict[str, Any]
    outcome: str
    hash: str


class AuditPage(BaseModel):
    rows: list[AuditRowBody]
    next: str | None = Field(description="Pass as `after` for older rows; null at the end.")


class MeasurementBody(BaseModel):
    name: str = Field(examples=["redis"])
    colour: Literal["green", "yellow", "red"]
    value: str
    limit: str
    how: str
    measured_at: datetime
    problem: str


class Health(BaseModel):
    colour: Literal["green", "yellow", "red"] = Field(description="The worst of them.")
    measurements: list[MeasurementBody]
