"""Tell people of what a command did, beside the command: on a thread that has a deadline, and whose result is said.

Whoever is told by a service is not told again here; where none is up, this is all that tells anybody.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from breaker.pending_trips import PendingTrip
    from configuration.settings import Settings
    from tasks.transition_notices import Told

_BESIDES = 6.0
"""Seconds beyond the channels' and Redis's own limits: importing, reading what is exposed, the spool of what failed."""
_begun: list[tuple[threading.Thread, float]] = []


def tell_transitions(settings: Settings, scope: str) -> None:
    """Begin to tell what has happened to this breaker and nobody has told yet."""

    async def tell() -> list[Told]:
        from tasks import transition_notices  # noqa: PLC0415  on its thread: the command doesn't wait for it

        return await transition_notices.tell_transitions(settings, scope)

    _begin(settings, tell)


def tell_undelivered_trip(settings: Settings, trip: PendingTrip, why: str) -> None:
    """Begin to tell of a trip that Redis was not told of."""

    async def tell() -> list[Told]:
        from tasks import transition_notices  # noqa: PLC0415

        told = await transition_notices.tell_undelivered_trip(settings, trip, why)
        return [] if told is None else [told]

    _begin(settings, tell)


def finish() -> None:
    """Wait for what was begun, each until its deadline, and say of what is not done by then that it is not."""
    while _begun:
        thread, until = _begun.pop()
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            sys.stderr.write("breaker: people could not be told in time; tell them yourself\n")


def _begin(settings: Settings, tell: Callable[[], Awaitable[list[Told]]]) -> None:
    channels = settings.notifications
    if not channels.any_channel:
        return
    longest = channels.timeout + 2 * settings.redis_timeout + _BESIDES
    thread = threading.Thread(target=_tell_and_say, args=(tell,), name="telling people", daemon=True)
    thread.start()
    _begun.append((thread, time.monotonic() + longest))


def _tell_and_say(tell: Callable[[], Awaitable[list[Told]]]) -> None:
    import asyncio  # noqa: PLC0415

    async def run() -> list[Told]:
        return await tell()

    try:
        told = asyncio.run(run())
    except Exception as error:  # what was done stands, whoever could be told of it
        sys.stderr.write(f"breaker: people could not be told: {type(error).__name__}: {error}\n")
        return
    for each in told:
        failed = "; ".join(f"{failure.channel} {failure.problem}" for failure in each.failures)
        if not each.delivered:
            sys.stderr.write(f"breaker: nobody could be told ({failed}); tell them yourself\n")
        else:
            sys.stderr.write(
                f"breaker: people are told: {each.notification.title}{f' (but {failed})' if failed else ''}\n"
            )
