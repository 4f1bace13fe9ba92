"""Reset a breaker for a person: one rule set for flow, console, API and command line, and every refusal on record.

`breaker.CircuitBreaker.reset` is the bare transition. Whoever lets a person reset comes through here: permission and
second person first, then everything is measured, then the transition is made for the very state that was judged.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from breaker.errors import BreakerError, NotTripped, ResetRateLimited, StateConflict
from breaker.events import Transition
from breaker.state import State, Status
from breaker.transition_terms import ResetToken
from configuration.login import behind_sudo
from configuration.settings import Settings
from ledger.errors import LedgerError
from ledger.record import DENIED, FAILED, AuditRecord, derived_id
from tasks.checks.equity import trips_again_of
from tasks.checks.measurement import Measurement
from tasks.recovery.approval_rules import Approval, Refusal, Rule, in_words, red_of, refusals_of_reset
from tasks.recovery.rebase import REBASE_REFUSED, REBASED, Rebased, begin_anew
from tasks.recovery.rules_in_force import rules_in_force

if TYPE_CHECKING:
    from breaker import AsyncCircuitBreaker

REFUSED = "RESET_REFUSED"
OVERRIDDEN = "RESET_CONDITIONS_OVERRIDDEN"
ADOPTED = "RESET_ADOPTED"
"""A recovery takes a reset that was made past it as its own."""
_UNREAD = "the breaker was not judged"
"""An incident's id that there never is, so that a reset which asks for it can only be refused, or be a repetition."""

Measure = Callable[[str, str | None], Awaitable[list[Measurement]]]
"""Measure everything of the incident of that id; None for a breaker that has none."""
Record = Callable[[AuditRecord], Awaitable[None]]


class ResetRefused(BreakerError):
    """A rule refuses the reset. On record; nothing changed."""

    def __init__(self, refusals: Sequence[Refusal], red: Sequence[Measurement] = ()) -> None:
        super().__init__(f"Not reset: {in_words(refusals)}. Nothing changed.")
        self.refusals = tuple(refusals)
        self.red = tuple(red)

    @property
    def rule(self) -> Rule:
        """The first that refuses."""
        return self.refusals[0].rule


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetRequest:
    """Who asks for what, by which way in."""

    scope: str
    answer: Approval
    permissions: Collection[str]
    """The person's, from whoever knows them: the configuration for a login, the console for its users."""
    source: str
    claimed: str = ""
    """A name that was only typed. Kept, and nothing is decided by it."""
    ip_address: str | None = None
    expected_epoch: int | None = None
    """That of the state that the person has looked at."""
    event_id: str | None = None
    incident_id: str = ""
    """The incident whose recovery asks; a reset of it that was made past the recovery is then taken as its own."""
    flow_run_id: str | None = None
    once: str = ""
    """With it, doing all of this again after a crash records nothing again."""
    token: ResetToken | None = None
    """The answer, where it is kept: the reset consumes it."""
    question: str = ""
    """What the answer was given to."""
    made: bool = False
    """The transition was made by this very request, before a crash: what comes after it is done, nothing is judged."""


@dataclass(frozen=True, slots=True)
class ResetOutcome:
    status: Status
    red: tuple[Measurement, ...] = ()
    """What was overridden."""
    adopted: bool = False
    """It had been made before, by somebody else."""
    epoch: int | None = None
    """That of the reset itself: its watch may have ended by now, which is a transition too."""
    undropped: str = ""
    """Why pending exits that the override gives up are still pending."""
    locked: tuple[str, ...] = ()
    """Why accounts are still locked at their venues, each as a sentence; the watch tries again."""
    rebased: Rebased | None = None
    """What the high-water mark was and is, where the answer asked that it begin anew."""
    unrebased: str = ""
    """Why it did not begin anew although the answer asked for that."""
    trips_again: str = ""
    """That the next measurement of equity trips again, with the figures; empty where none would."""

    @property
    def equity_warning(self) -> str:
        """What whoever has reset must be told of the equity; empty for nothing."""
        return "; ".join(part for part in (self.unrebased, self.trips_again) if part)


async def measure_for_reset(
    settings: Settings, scope: str, incident_id: str, flow_run_id: str | None = None
) -> list[Measurement]:
    """Everything that a reset is judged by. What can't be read is red; nothing is raised."""
    # All that measuring needs is imported first: done meanwhile, it would count as slowness of what is measured.
    for module in ("prefect.client.orchestration", "redis.asyncio", "ledger.health"):
        importlib.import_module(module)
    from tasks.checks.conditions import measure_conditions  # noqa: PLC0415  slow to import
    from tasks.checks.system import measure_health  # noqa: PLC0415
    from tasks.recovery.conflicts import find_conflicts  # noqa: PLC0415

    measured, health, conflicts = await asyncio.gather(
        measure_conditions(settings, scope),
        measure_health(settings),
        find_conflicts(settings, incident_id=incident_id, flow_run_id=flow_run_id, scope=scope),
    )
    return [*measured, *health, conflicts]


async def reset_breaker(
    settings: Settings, breaker: AsyncCircuitBreaker, request: ResetRequest, measure: Measure, record: Record
) -> ResetOutcome:
    """Reset, if every rule allows it.

    Raises:
        ResetRefused: a rule refuses it.
        NotTripped, ResetRateLimited, StateConflict: the breaker does. These four are on record, in one row.
        BreakerUnavailable, RedisRefused: as for the breaker's own `reset`.
    """
    before = await breaker.get_status()
    rules = await rules_in_force(settings, request.scope, request.answer.approver, request.permissions, before)
    try:
        # Who may not reset at all learns nothing else, and keeps nobody's venue busy with measurements.
        _raise_if_any([] if request.made else refusals_of_reset(request.answer, rules, []))
        if not _is_meant(request, before):
            repeated = await _transition(breaker, request, request.expected_epoch or before.epoch or 0, _UNREAD)
            return ResetOutcome(repeated, trips_again=await trips_again_of(settings, request.scope))
        measured = await measure(before.incident_id or request.incident_id, request.flow_run_id)
        red = tuple(red_of(measured))
        _raise_if_any([] if request.made else refusals_of_reset(request.answer, rules, measured), red)
        foreseen = "" if request.answer.rebase_equity else await trips_again_of(settings, request.scope)
        outcome = replace(await _reset_or_adopt(breaker, request, before, red, foreseen), trips_again=foreseen)
    except (ResetRefused, NotTripped, ResetRateLimited, StateConflict) as error:
        await record(_row(REFUSED, request, before, {"refused": str(error)}, outcome=DENIED))
        raise
    # After the reset, so that one that is refused re-bases nothing; at once, as a measurement in between trips again.
    # So does the next one after a crash here, which leaves the old mark.
    if request.answer.rebase_equity:
        outcome = await _rebase(settings, request, before, outcome, record)
    if red:
        details = {
            "red": [measurement.as_dict() for measurement in red],
            "override_reason": request.answer.override_reason,
        }
        await record(_row(OVERRIDDEN, request, before, details))
    if outcome.adopted:
        await record(_row(ADOPTED, request, before, {"epoch": outcome.epoch, "reset_by": outcome.status.reset_by}))
    outcome = await _drop_exits(settings, request, outcome)
    locked = await _unlock_at_venues(settings, request)
    return replace(outcome, locked=tuple(locked))


def _is_meant(request: ResetRequest, before: Status) -> bool:
    """Whether there is something to judge: this trip, as it was looked at, or a reset that a recovery may adopt."""
    if request.made or _may_adopt(request, before):
        return True
    return before.state is State.TRIPPED and request.expected_epoch in (None, before.epoch)


def _may_adopt(request: ResetRequest, status: Status) -> bool:
    reset = status.state in (State.QUIET_PERIOD, State.OPEN)
    return bool(request.incident_id) and reset and status.incident_id == request.incident_id


def _raise_if_any(refusals: Sequence[Refusal], red: Sequence[Measurement] = ()) -> None:
    if refusals:
        raise ResetRefused(refusals, red)


async def _reset_or_adopt(
    breaker: AsyncCircuitBreaker,
    request: ResetRequest,
    before: Status,
    red: tuple[Measurement, ...],
    trips_again: str,
) -> ResetOutcome:
    if request.made:
        return ResetOutcome(before, red, epoch=await _epoch_of_reset(breaker, before, request.event_id))
    try:
        epoch = request.expected_epoch if request.expected_epoch is not None else before.epoch
        details: dict[str, Any] = (
            {"red": [m.name for m in red], "override_reason": request.answer.override_reason} if red else {}
        )
        if request.answer.rebase_equity:
            details["rebase_equity"] = True
        elif trips_again:  # which the person was told
            details["trips_again"] = trips_again
        status = await _transition(breaker, request, epoch, request.incident_id or None, details)
    except (NotTripped, StateConflict):  # where there is one to adopt, it doesn't matter what came before it
        status = await breaker.get_status()
        if not _may_adopt(request, status):
            raise
        return ResetOutcome(status, red, adopted=True, epoch=await _epoch_of_reset(breaker, status))
    return ResetOutcome(status, red, epoch=await _epoch_of_reset(breaker, status))


async def _epoch_of_reset(breaker: AsyncCircuitBreaker, after: Status, event_id: str | None = None) -> int | None:
    """From the history, where the status `after` it may be that of the end of its quiet period, or of a later trip."""
    try:
        events = await breaker.get_history(20)
    except BreakerError:  # the reset is made; what is asked here is only which one it was
        return after.epoch
    resets = [event for event in events if event.transition is Transition.RESET]
    own = [event.epoch for event in resets if event.event_id == event_id]
    return next(iter([*own, *(event.epoch for event in resets)]), after.epoch)


async def _transition(
    breaker: AsyncCircuitBreaker,
    request: ResetRequest,
    epoch: int | None,
    incident_id: str | None,
    details: dict[str, Any] | None = None,
) -> Status:
    said = {"claimed": request.claimed} if request.claimed else {}
    if request.source == "cli" and (sudo := behind_sudo()):
        said["sudo"] = sudo
    said |= {"question": request.question} if request.question else {}
    return await breaker.reset(
        reset_by=request.answer.approver,
        reason=request.answer.reason,
        event_id=request.event_id,
        expected_epoch=epoch,
        expected_incident_id=incident_id,
        details={**said, **(details or {})},
        ip_address=request.ip_address,
        token=request.token,
        ends_watched=True,
    )


async def _rebase(
    settings: Settings, request: ResetRequest, before: Status, outcome: ResetOutcome, record: Record
) -> ResetOutcome:
    """Begin the high-water mark anew. What keeps it from that is told: the reset is made."""
    once = derived_id(REBASED, request.event_id) if request.event_id else None
    try:
        rebased = await begin_anew(settings, request.scope, event_id=once)
    except BreakerError as error:
        await record(_row(REBASE_REFUSED, request, before, {"refused": str(error)}, outcome=FAILED))
        return replace(outcome, unrebased=str(error), trips_again=await trips_again_of(settings, request.scope))
    await record(_row(REBASED, request, before, rebased.as_details()))
    return replace(outcome, rebased=rebased, trips_again=await trips_again_of(settings, request.scope))


async def _drop_exits(settings: Settings, request: ResetRequest, outcome: ResetOutcome) -> ResetOutcome:
    """Give up what an override leaves open, with the override's reason."""
    from tasks.checks.pending_exits import CONDITION  # noqa: PLC0415  after the transition
    from tasks.kill.exit_records import drop_exits  # noqa: PLC0415

    if all(measurement.name != CONDITION for measurement in outcome.red):
        return outcome
    try:
        await asyncio.to_thread(
            drop_exits,
            settings,
            request.scope,
            reason=request.answer.override_reason,
            by=request.answer.approver,
            source=request.source,
            ip_address=request.ip_address,
        )
    except LedgerError as error:
        return replace(outcome, undropped=str(error))
    return outcome


async def _unlock_at_venues(settings: Settings, request: ResetRequest) -> list[str]:
    from tasks.kill.venue_lock_release import release_venue_locks  # noqa: PLC0415  after the transition

    by = request.answer.approver
    return await release_venue_locks(settings, by=by, source=request.source, ip_address=request.ip_address)


def _row(
    action: str, request: ResetRequest, before: Status, details: dict[str, Any], outcome: str = "OK"
) -> AuditRecord:
    said = {"reason": request.answer.reason, **({"claimed": request.claimed} if request.claimed else {})}
    identity = {"id": derived_id(action, request.incident_id, request.once)} if request.once else {}
    return AuditRecord(
        action=action,
        source=request.source,
        user_id=request.answer.approver,
        details={**said, **details},
        ip_address=request.ip_address,
        scope=request.scope,
        incident_id=before.incident_id or request.incident_id or None,
        flow_run_id=request.flow_run_id,
        outcome=outcome,
        **identity,  # type: ignore[arg-type]
    )
