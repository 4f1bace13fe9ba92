"""Tell people of a breaker's transitions: once each, whoever made one, and whichever processes are there to tell.

What is to be told is in the breaker's history, so nobody has to have seen the moment. Whoever tells an event claims
its id in Redis first. The claim of one that dies, or whose channels take nothing, runs out, and another one tells it.
Without Redis there is no claim: told twice is better than not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from breaker.errors import BreakerError, InvalidInput
from breaker.events import Transition, TransitionEvent
from breaker.pending_trips import PendingTrip
from breaker.trip_reasons import TripReason
from brokers.coverage import coverage_of
from configuration.breakers import async_breaker_of
from configuration.settings import Settings
from tasks import exposure
from tasks.checks.probe import redis_reader
from tasks.kill.pending_exit_store import read_pending_exits
from tasks.notification import Notification, NotificationKind
from tasks.notify import RECORD_WAIT, DeliveryFailure, channels_of, notify
from tasks.transition_notification import (
    NOT_READ,
    declined_kill_notification,
    transition_notification,
    undelivered_trip_notification,
)

RECENT = timedelta(minutes=15)
"""How old a transition may be that people are still told of: longer than most restarts, shorter than a shift."""
LOOKED_AT = 20
"""Transitions, the newest ones; of more within `RECENT` nobody reads every message."""
TOLD = "told"
TOLD_FOR = 86_400
"""Seconds for which it is remembered that an event was told; more than `RECENT`."""
_CLAIM_MARGIN = 30.0
"""Seconds beyond what telling may take, after which whoever claimed an event is taken for dead."""
_KILL_READS = f"{NOT_READ} here; the kill switch reports what it found"


@dataclass(frozen=True, slots=True)
class Told:
    """What came of telling one thing. With `failures` at every channel that it goes to nobody was told."""

    notification: Notification
    failures: tuple[DeliveryFailure, ...]
    channels: int

    @property
    def delivered(self) -> bool:
        failed = {failure.channel for failure in self.failures if failure.channel != "record"}
        return not self.channels or len(failed) < self.channels


def longest(settings: Settings) -> float:
    """Seconds that telling one thing takes at most, but for what Redis takes."""
    return exposure.WITHIN + settings.notifications.timeout + RECORD_WAIT


async def tell_transitions(settings: Settings, scope: str) -> list[Told]:
    """Tell what has happened to this breaker lately and nobody has told yet, oldest first.

    Raises what reading a breaker's history raises.
    """
    if not settings.notifications.any_channel:
        return []
    breaker = async_breaker_of(settings, scope)
    try:
        events = await breaker.get_history(LOOKED_AT)
    finally:
        await breaker.close()
    since = datetime.now(UTC) - RECENT
    told = [await tell_transition(settings, event) for event in reversed(events) if event.at >= since]
    return [each for each in told if each is not None]


async def tell_transition(settings: Settings, event: TransitionEvent) -> Told | None:
    """None for what is nobody's news, or what somebody else tells."""
    notification = _of(settings, event, NOT_READ)
    if notification is None or not await _claim(settings, event.event_id):
        return None
    if event.transition in (Transition.TRIP, Transition.INITIALIZE):
        exposed = await _exposed(settings, event.scope, event.reason, event.details)
        notification = _of(settings, event, exposed) or notification
    told = await _tell(settings, await _open_while_pending(settings, notification))
    if told.delivered:
        await _note_told(settings, event.event_id)
    return told


async def tell_undelivered_trip(settings: Settings, trip: PendingTrip, why: str) -> Told | None:
    """Redis is away, so it is told without a claim. None where no channel is configured."""
    if not settings.notifications.any_channel:
        return None
    exposed = await _exposed(settings, trip.scope, trip.reason, trip.details)
    return await _tell(
        settings,
        undelivered_trip_notification(
            trip,
            why,
            exposed=exposed,
            console_url=settings.recovery.console_url,
        ),
    )


async def tell_declined_kill(
    settings: Settings, trip: PendingTrip, incident_id: str, accounts: Sequence[str], *, halted: bool
) -> Told | None:
    """Tell that the kill switch of this trip was not confirmed, and what the accounts hold."""
    if not settings.notifications.any_channel:
        return None
    notification = declined_kill_notification(
        trip,
        incident_id,
        halted=halted,
        exposed=await exposure.exposure_in_words(settings, accounts),
        console_url=settings.recovery.console_url,
    )
    return await tell_once(settings, f"{trip.event_id}:declined", notification)


async def tell_once(settings: Settings, identity: str, notification: Notification) -> Told | None:
    """Tell something else than a transition, once for this `identity`; None if somebody else has told it."""
    if not settings.notifications.any_channel or not await _claim(settings, identity):
        return None
    told = await _tell(settings, notification)
    if told.delivered:
        await _note_told(settings, identity)
    return told


def _of(settings: Settings, event: TransitionEvent, exposed: str) -> Notification | None:
    return transition_notification(event, exposed=exposed, console_url=settings.recovery.console_url)


async def _tell(settings: Settings, notification: Notification) -> Told:
    channels = channels_of(settings.notifications, notification)
    return Told(notification, tuple(await notify(settings, notification)), channels)


async def _exposed(settings: Settings, scope: str, reason: str, details: Mapping[str, Any]) -> str:
    if reason == TripReason.KILL_SWITCH and "flattens" not in details:  # it needs the venues' rate limits itself
        return _KILL_READS
    try:
        accounts = coverage_of(scope, settings.accounts).accounts
    except InvalidInput:  # a breaker of some engine's own: any account may be meant
        accounts = tuple(settings.accounts)
    return await exposure.exposure_in_words(settings, accounts)


async def _open_while_pending(settings: Settings, notification: Notification) -> Notification:
    """Trading may go on with something still to be closed, of another breaker say; the page stays open then."""
    if notification.kind is not NotificationKind.RECOVERED:
        return notification
    left = await asyncio.to_thread(read_pending_exits, settings)
    open_ = [each.what for each in left.exits if each.incident_id == notification.incident_id]
    if not open_ and not left.problems:
        return notification
    what = "; ".join([*open_, *left.problems])
    return replace(
        notification,
        kind=NotificationKind.STUCK,
        title="Recovered, but not everything is closed",
        body=f"{notification.body} Still to be closed: {what}. Resolve this yourself when it is.",
        severity="critical",
    )


def notified_key(identity: str) -> str:
    """Holds `TOLD` once people have been told; until then, for a while, that somebody is about to."""
    return f"circuit_breaker:notified:{identity}"


async def _claim(settings: Settings, identity: str) -> bool:
    """Whether this process is to tell it."""
    held = round((longest(settings) + _CLAIM_MARGIN) * 1000)
    try:
        async with redis_reader(settings) as redis:
            claim = ("SET", notified_key(identity), "claimed", "NX", "PX", held)
            (mine,) = await redis.ask("claim a notification", claim)
    except BreakerError:
        return True
    return mine is not None


async def _note_told(settings: Settings, identity: str) -> None:
    try:
        async with redis_reader(settings) as redis:
            await redis.ask("note a notification", ("SET", notified_key(identity), TOLD, "EX", TOLD_FOR))
    except BreakerError:
        return  # the claim holds for a while; told twice is better than not at all
