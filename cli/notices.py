"""Tell people of what a command did, beside the command: on a thread that has a deadline, and whose result is said.

Whoever is told by a service is not told again here; where none is up, this is all that tells anybody.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from breaker.pending_trips import PendingTrip
    from configuration.settings import Settings
    from tasks.transition_notices import Told

_BESIDES = 6.0
"""Seconds beyond the channels' and Redis's own limits: importing, reading what is exposed, the spool of what failed."""


@dataclass(frozen=True, slots=True)
class _Telling:
    thread: threading.Thread
    until: float

    def wait(self) -> bool:
        """Whether it is done by its deadline."""
        self.thread.join(max(0.0, self.until - time.monotonic()))
        return not self.thread.is_alive()


_begun: list[_Telling] = []
_kept: list[str] = []
"""What came of tellings while a person was asked: lines for the end."""


def tell_transitions(settings: Settings, scope: str, *, during_question: bool = False) -> None:
    """Begin to tell what has happened to this breaker and nobody has told yet."""

    async def tell() -> list[Told]:
        from tasks import transition_notices  # noqa: PLC0415  on its thread: the command doesn't wait for it

        return await transition_notices.tell_transitions(settings, scope)

    _begin(settings, tell, during_question)


def tell_undelivered_trip(settings: Settings, trip: PendingTrip, why: str, *, during_question: bool = False) -> None:
    """Begin to tell of a trip that Redis was not told of."""

    async def tell() -> list[Told]:
        from tasks import transition_notices  # noqa: PLC0415

        told = await transition_notices.tell_undelivered_trip(settings, trip, why)
        return [] if told is None else [told]

    _begin(settings, tell, during_question)


def tell_declined_kill(
    settings: Settings, trip: PendingTrip, incident_id: str, accounts: Sequence[str], *, halted: bool
) -> None:
    """Begin to tell that a kill switch was not confirmed, and what is open."""

    async def tell() -> list[Told]:
        from tasks import transition_notices  # noqa: PLC0415

        told = await transition_notices.tell_declined_kill(settings, trip, incident_id, accounts, halted=halted)
        return [] if told is None else [told]

    _begin(settings, tell)


def finish() -> None:
    """Wait for what was begun, each until its deadline, and say of what is not done by then that it is not."""
    while _begun:
        if not _begun.pop().wait():
            sys.stderr.write("breaker: people could not be told in time; tell them yourself\n")
    while _kept:
        sys.stderr.write(_kept.pop(0))


def _begin(settings: Settings, tell: Callable[[], Awaitable[list[Told]]], during_question: bool = False) -> None:
    """What was begun before is told before it, unless its deadline is over."""
    channels = settings.notifications
    if not channels.any_channel:
        return
    before = _begun[-1] if _begun else None
    longest = channels.timeout + 2 * settings.redis_timeout + _BESIDES
    until = max(time.monotonic(), before.until if before else 0.0) + longest

    def run() -> None:
        if before is not None:
            before.wait()
        _tell_and_say(tell, _kept.append if during_question else sys.stderr.write)

    thread = threading.Thread(target=run, name="telling people", daemon=True)
    thread.start()
    _begun.append(_Telling(thread, until))


def _tell_and_say(tell: Callable[[], Awaitable[list[Told]]], say: Callable[[str], object]) -> None:
    import asyncio  # noqa: PLC0415

    async def run() -> list[Told]:
        return await tell()

    try:
        told = asyncio.run(run())
    except Exception as error:  # what was done stands, whoever could be told of it
        say(f"breaker: people could not be told: {type(error).__name__}: {error}\n")
        return
    for each in told:
        failed = "; ".join(f"{failure.channel} {failure.problem}" for failure in each.failures)
        if not each.delivered:
            say(f"breaker: nobody could be told ({failed}); tell them yourself\n")
        else:
            say(f"breaker: people are told: {each.notification.title}{f' (but {failed})' if failed else ''}\n")
