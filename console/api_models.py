"""What the API takes and gives, as its OpenAPI document describes it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from breaker import State
from console.actions import MAX_REASON, MIN_REASON
from console.kills import CONFIRMATION

_Reason = Annotated[
    str,
    Field(
        min_length=MIN_REASON,
        max_length=MAX_REASON,
        description=f"Why, in one line of {MIN_REASON} to {MAX_REASON} characters.",
    ),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TripRequest(_Body):
    reason: _Reason = Field(examples=["Unusual market volatility detected, halting for review"])
    acknowledge: Literal[True] = Field(description="Trading halts until somebody resets it.")


class ResetRequest(_Body):
    reason: _Reason = Field(examples=["Market conditions normalized, system health verified, resuming trading"])
    acknowledge: Literal[True] = Field(description="The cause is understood and the conditions have been looked at.")
    expected_epoch: int | None = Field(
        default=None, ge=0, le=2**53 - 2, description="Refuse if the state has changed since it had this epoch."
    )
    override_conditions: bool = Field(default=False, description="Reset although conditions are red. Recorded.")


class KillRequest(_Body):
    reason: _Reason = Field(examples=["Exchange reports fills that our engine never sent"])
    acknowledge: Literal[True] = Field(description="All orders are cancelled and all positions closed.")
    confirm: Literal["FLATTEN"] = Field(description=f"The word {CONFIRMATION}.")


class StatusBody(BaseModel):
    """A breaker's state. Fields beside these are what else is stored with it."""

    model_config = ConfigDict(extra="allow")

    scope: str = Field(examples=["global"])
    state: State
    as_of: datetime | None = Field(description="Redis's time at which it was so; null if Redis didn't answer.")
    tripped_at: datetime | None = None
    trip_reason: str | None = Field(default=None, examples=["MANUAL"])
    tripped_by: str | None = None
    incident_id: str | None = None
    epoch: int | None = None
    problem: str | None = Field(default=None, description="Why the state is UNKNOWN.")


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


class History(BaseModel):
    events: list[EventBody]


class KillBody(BaseModel):
    """One run of the kill switch."""

    incident_id: str
    verdict: Literal["RUNNING", "FLAT", "NOT FLAT"]
    scope: str
    operator: str
    reason: str
    started_at: datetime
    elapsed: float = Field(description="Seconds.")
    halted: bool
    problem: str = Field(description="Why it could not halt, or broke off; empty otherwise.")
    accounts: list[dict[str, Any]]
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
