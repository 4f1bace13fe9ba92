"""Reset by this host's configuration, as the person who is at the keyboard."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from breaker.errors import BreakerError
from breaker.keys import of_scope
from breaker.state import Status
from cli.messages import say
from cli.options import ResetOptions
from cli.person import Person, acting_person
from configuration.breakers import async_breaker_of
from configuration.login import login_name
from configuration.settings import Settings
from ledger.configured import open_ledger, open_ready_ledger, open_spool
from ledger.errors import LedgerError, LedgerUnavailable
from ledger.ledger import Ledger
from ledger.record import AuditRecord
from ledger.recorder import Recorder
from tasks.checks.measurement import Measurement
from tasks.checks.pending_exits import CONDITION as PENDING_EXITS
from tasks.recovery.approval_rules import Approval
from tasks.recovery.reset import Record, ResetOutcome, ResetRequest, measure_for_reset, reset_breaker
from tasks.recovery.reset_watch import WatchEnd
from tasks.recovery.watch_here import watch_unless_watched


class ResetTrippedAgain(BreakerError):
    """The watch after the reset found something red, and halted."""


def reset_here(settings: Settings, ask: ResetOptions) -> Status:
    """Raises InvalidInput for a token that is none, LedgerError where one can't be confirmed, and what
    `tasks.recovery.reset.reset_breaker` raises.
    """
    person = acting_person(settings, ask.operator)
    with recording(settings) as record:
        outcome = asyncio.run(_reset(settings, ask, person, record))
    for measurement in outcome.red:
        say(f"overridden: {measurement.name}, {measurement.value}")
    if any(measurement.name == PENDING_EXITS for measurement in outcome.red) and not outcome.undropped:
        say("what was pending is given up: nothing closes it any more")
    if outcome.rebased:
        say(outcome.rebased)
    if outcome.equity_warning:
        anew = f"`breaker equity rebase --reason WHY{of_scope(ask.scope)}`"
        say(f"reset, but {outcome.equity_warning}; {anew} does so now")
    if outcome.undropped:
        say(f"reset, but pending exits are not dropped: {outcome.undropped}")
    for problem in outcome.locked:
        say(f"reset, but {problem}")
    return outcome.status


@contextmanager
def recording(settings: Settings) -> Iterator[Record]:
    """Record in the audit log, or on this host's disk. What neither takes is said: what was decided stands."""
    ledger = _ledger(settings)
    recorder = Recorder(ledger, open_spool(settings))

    async def record(made: AuditRecord) -> None:
        try:
            await asyncio.to_thread(recorder.record, made)
        except LedgerError as error:  # it says what to note by hand
            say(f"not in the audit log: {error}")

    try:
        yield record
    finally:
        ledger.close()


async def _reset(settings: Settings, ask: ResetOptions, person: Person, record: Record) -> ResetOutcome:
    request = ResetRequest(
        scope=ask.scope,
        answer=Approval(
            person.name, ask.reason, acknowledge=True, override_reason=ask.override, rebase_equity=ask.rebase_equity
        ),
        permissions=person.permissions,
        source="cli",
        claimed=person.claimed,
        expected_epoch=ask.expected_epoch,
    )

    async def measure(incident_id: str, flow_run_id: str | None) -> list[Measurement]:
        return await measure_for_reset(settings, ask.scope, incident_id, flow_run_id)

    breaker = async_breaker_of(settings, ask.scope, source="cli")
    try:
        return await reset_breaker(settings, breaker, request, measure, record)
    finally:
        await breaker.close()


def watch_here(settings: Settings, scope: str) -> None:
    """See to it that the reset is watched: by a service that does so within some seconds, or else here.

    Raises ResetTrippedAgain, and BreakerUnavailable or RedisRefused where Redis can't be told of what was seen.
    """
    end = asyncio.run(_watch(settings, scope))
    if end is not None and end.why:
        raise ResetTrippedAgain(f"tripped again: {end.why}")
    if end is not None:
        say(f"nothing red: {end}")


async def _watch(settings: Settings, scope: str) -> WatchEnd | None:
    ledger = _ledger(settings)
    recorder = Recorder(ledger, open_spool(settings))

    async def record(made: AuditRecord) -> None:
        await asyncio.to_thread(recorder.record, made)

    holder = f"{login_name()} on {socket.gethostname()}, process {os.getpid()}"
    leaving = "; leaving (Ctrl-C) ends the watch, not the reset, whose quiet period goes on until it has been watched"
    try:
        return await watch_unless_watched(settings, scope, holder, record, say, aside=leaving)
    finally:
        ledger.close()


def _ledger(settings: Settings) -> Ledger:
    try:
        return open_ready_ledger(settings)
    except (
        LedgerUnavailable
    ):  # the embedded one can't be made; what is recorded goes to the spool, and it is measured red
        return open_ledger(settings)
