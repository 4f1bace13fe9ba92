"""Say what people are told of a breaker's transition. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from breaker.events import Transition, TransitionEvent
from breaker.keys import of_scope
from breaker.pending_trips import PendingTrip
from breaker.state import State
from breaker.trip_reasons import TripReason
from configuration.reasons import FLATTENS_NOTHING
from tasks.notification import Notification, NotificationKind, console_page

NOT_READ = "not read"
_HALTED = "Trading is halted: only orders that reduce risk pass."
_SHOWN = 500
"""Characters of what a program said of its trip."""


def transition_notification(
    event: TransitionEvent, *, exposed: str, console_url: str | None = None
) -> Notification | None:
    """What people are told of it; None for what is nobody's news: a first OPEN state, a rule that trips once more.

    `exposed` is what the accounts hold, in words, or `NOT_READ` and why.
    """
    match event.transition:
        case Transition.TRIP:
            kind = _kind_of_trip(event)
            if kind is None:
                return None
            title, severity = _title_of_trip(kind, event), "critical"
            lines = [*_why(event.details), _by(event.by, event.source), f"Exposed: {exposed}", _HALTED]
        case Transition.INITIALIZE:
            if event.to_state != State.TRIPPED:
                return None
            kind, severity = NotificationKind.TRIPPED, "critical"
            title = f"{event.scope} was initialised TRIPPED: {event.reason}"
            lines = [*_why(event.details), _by(event.by, event.source), f"Exposed: {exposed}", _HALTED]
        case Transition.RESET:
            # Without a quiet period trading is open at once, and nothing else says so.
            open_ = event.to_state == State.OPEN
            kind, severity = (NotificationKind.RECOVERED if open_ else NotificationKind.RESET), "info"
            title = f"{event.scope} was reset by {event.by}"
            lines = [f"Reason: {event.reason or 'none given'}", *_overridden(event.details)]
            lines += [f"Asked for through {event.source}." if event.source else ""]
            lines += ["Trading is OPEN." if open_ else "The quiet period has begun; anything red trips again."]
        case Transition.QUIET_PERIOD_END:
            kind, severity = NotificationKind.RECOVERED, "info"
            title = f"{event.scope} is OPEN again"
            lines = [f"The quiet period ended well ({event.by})."]
    page = console_page(console_url, "circuit-breaker", event.scope)
    # What was made by an older library, or by hand, belongs to no incident: it is one of its own.
    return Notification(
        kind,
        event.incident_id or event.event_id,
        title,
        "\n".join(line for line in lines if line),
        severity,  # type: ignore[arg-type]
        page,
    )


def undelivered_trip_notification(
    trip: PendingTrip, why: str, *, exposed: str, console_url: str | None = None
) -> Notification:
    """A trip that Redis could not be told of. The state is not known then, and gates close by their own leases."""
    lines = [
        *_why(trip.details),
        _by(trip.tripped_by, trip.source),
        f"Exposed: {exposed}",
        why,
    ]
    kill = trip.reason == TripReason.KILL_SWITCH
    title = f"{trip.scope} could not be tripped: Redis was not told{_flattens(trip.details)}"
    return Notification(
        NotificationKind.KILL_STARTED if kill else NotificationKind.NOT_TRIPPED,
        trip.incident_id or trip.event_id,
        f"Kill switch started, but {title}" if kill else title,
        "\n".join(lines),
        "critical",
        console_page(console_url, "circuit-breaker", trip.scope),
    )


def declined_kill_notification(
    trip: PendingTrip, incident_id: str, *, halted: bool, exposed: str, console_url: str | None = None
) -> Notification:
    """A kill switch that has asked before it flattens, and was not confirmed."""
    lines = [
        *_why(trip.details),
        _by(trip.tripped_by, trip.source),
        f"Open: {exposed}",
        _HALTED if halted else "Nor is it halted: Redis was not told of the trip.",
        f"To go on: `breaker kill{of_scope(trip.scope)}`",
    ]
    return Notification(
        NotificationKind.KILL_DECLINED,
        incident_id,
        f"Kill switch not confirmed ({trip.scope}): {'halted, but ' if halted else ''}nothing was cancelled or closed",
        "\n".join(lines),
        "critical",
        console_page(console_url, "circuit-breaker", trip.scope),
    )


def _kind_of_trip(event: TransitionEvent) -> NotificationKind | None:
    if event.reason == TripReason.KILL_SWITCH:
        return NotificationKind.KILL_STARTED
    if event.from_state == State.QUIET_PERIOD or event.reason == TripReason.WATCH_FAILED:
        return NotificationKind.RETRIPPED
    if event.from_state == State.TRIPPED and "operator" not in event.details:
        return None
    return NotificationKind.TRIPPED


def _title_of_trip(kind: NotificationKind, event: TransitionEvent) -> str:
    if kind is NotificationKind.KILL_STARTED:
        return f"Kill switch started ({event.scope}): halted{_flattens(event.details)}"
    if kind is NotificationKind.RETRIPPED:
        return f"{event.scope} was tripped again after its reset: {event.reason}"
    once_more = " once more" if event.from_state == State.TRIPPED else ""
    return f"{event.scope} was tripped{once_more}: {event.reason}"


def _flattens(details: Mapping[str, Any]) -> str:
    """Empty for one that flattens at once."""
    match details.get("flattens"):
        case None:
            return ""
        case str(said) if said == FLATTENS_NOTHING:
            return f"; flattens {FLATTENS_NOTHING}"
        case _:
            return "; asks before it flattens"


def _why(details: Mapping[str, Any]) -> list[str]:
    """The operator's own words; of a rule's trip what it measured."""
    if said := details.get("reason"):
        return [f"Reason: {said}"]
    measured = "; ".join(f"{name} {value}" for name, value in details.items() if name not in ("operator", "login"))
    return [f"Details: {measured[:_SHOWN]}"] if measured else ["Reason: none given"]


def _by(who: str, source: str) -> str:
    return f"By: {who or 'nobody named'}" + (f" ({source})" if source else "")


def _overridden(details: Mapping[str, Any]) -> list[str]:
    red = details.get("red")
    if not isinstance(red, list) or not red:
        return []
    return [f"Overridden although red: {', '.join(map(str, red))}. {details.get('override_reason', '')}".rstrip()]
