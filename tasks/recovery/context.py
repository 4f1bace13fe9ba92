"""Hold what the steps of one recovery work with: settings, breaker, ledger, and the picture of where it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from redis.asyncio import Redis

from breaker import AsyncCircuitBreaker
from configuration.settings import Settings
from ledger.record import OK, AuditRecord, derived_id
from ledger.recorder import Recorder
from tasks.checks.measurement import Colour, Measurement
from tasks.recovery.approval_rules import Approval, ApprovalRules, RootCause
from tasks.recovery.attestation import attested_permissions
from tasks.recovery.questions import Question, Questions
from tasks.recovery.state import ItemState, RecoveryState, Tick, now_iso, write_state

_TICK = {Colour.GREEN: Tick.GREEN, Colour.YELLOW: Tick.YELLOW, Colour.RED: Tick.RED}


@dataclass(slots=True)
class RecoveryContext:
    settings: Settings
    redis: Redis
    breaker: AsyncCircuitBreaker
    recorder: Recorder
    state: RecoveryState
    tripped_by: tuple[str, ...] = ()
    """Every name of whoever tripped."""
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One write at a time: one that is tried again after an outage must not land on top of a newer one."""

    async def rules(self, question: str, answer: RootCause | Approval) -> ApprovalRules:
        """What holds for this answer: permissions are from the configuration, and from the console for its users."""
        recovery = self.settings.recovery
        vouched = await attested_permissions(self.redis, self.state.flow_run_id, question, answer)
        people = {**recovery.people, answer.by: (*recovery.people.get(answer.by, ()), *vouched)}
        return ApprovalRules(people, recovery.two_person, self.tripped_by, self.state.author, self.state.scope)

    @property
    def questions(self) -> Questions:
        return Questions(self.redis, self.state.incident_id, self.state.flow_run_id)

    async def question(self, form: str, round_: int) -> Question:
        """What people are asked by this form in this round, or were; asked now where it never was."""
        return await self.questions.current(form, round_, (await self.breaker.get_status()).epoch)

    async def refuse(self, question: Question, problem: str) -> None:
        """Let nothing come of the answer to this question, and ask another one about the breaker as it is now."""
        await self.questions.ask_again(question, problem, (await self.breaker.get_status()).epoch)

    async def update(self, **changes: Any) -> None:
        """Change the picture, and say by its heartbeat that somebody is working on it."""
        self.state = replace(self.state, heartbeat_at=now_iso(), **changes)
        async with self._writing:
            await write_state(self.redis, self.state)

    async def tick(self, key: str, tick: Tick, evidence: str, by: str = "", *, at: datetime | None = None) -> None:
        """`at` is when what it is about happened; now, unless given."""
        when = now_iso() if at is None else at.isoformat()
        self.state = self.state.with_item(key, ItemState(tick, when, by, evidence))
        await self.update()

    async def tick_measured(self, measurements: list[Measurement]) -> None:
        """Tick each item by the worst of its measurements; those of an item are named `item` or `item/what`."""
        for key in dict.fromkeys(measurement.name.partition("/")[0] for measurement in measurements):
            own = [m for m in measurements if m.name.partition("/")[0] == key]
            colour = max((m.colour for m in own), key=list(Colour).index)
            evidence = "; ".join(_evidence(m) for m in own)
            self.state = self.state.with_item(key, ItemState(_TICK[colour], now_iso(), "", evidence))
        await self.update()

    async def record(
        self, action: str, details: Mapping[str, Any], *, by: str | None = None, outcome: str = OK, once: str = ""
    ) -> None:
        """Put an action on record. With `once`, doing it again after a crash does not record it again; another run of
        the same incident, begun after this one was cancelled, records its own.
        """
        state = self.state
        identity = {"id": derived_id(action, state.incident_id, state.flow_run_id, once)} if once else {}
        record = AuditRecord(
            action=action,
            source="flow",
            user_id=by,
            details=details,
            incident_id=state.incident_id,
            scope=state.scope,
            flow_run_id=state.flow_run_id,
            outcome=outcome,
            **identity,  # type: ignore[arg-type]
        )
        await self.keep(record)

    async def keep(self, record: AuditRecord) -> None:
        await asyncio.to_thread(self.recorder.record, record)


def _evidence(measurement: Measurement) -> str:
    what = measurement.name.partition("/")[2]
    named = f"{what}: " if what else ""
    problem = f" — {measurement.problem}" if measurement.problem else ""
    return f"{named}{measurement.value} (limit {measurement.limit}; {measurement.how}){problem}"


current_recovery: ContextVar[RecoveryContext] = ContextVar("current_recovery")
