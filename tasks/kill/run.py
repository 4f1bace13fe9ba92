"""Hold one run of the kill switch: what its steps work with, what they report, and who watches.

The steps find their run in a context variable rather than in their arguments, so that the same step, with the same
readable arguments, runs as a Prefect task and without Prefect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from breaker.uuid7 import uuid7
from brokers.coverage import Coverage
from brokers.protocol import Broker
from configuration.settings import KillSettings, Settings
from tasks.kill.account import AccountProgress, AccountRun, Observer, RunClock
from tasks.kill.account_lock import AccountLock
from tasks.kill.pending_exits import PendingExit
from tasks.kill.report import KillReport

if TYPE_CHECKING:
    from breaker import AsyncCircuitBreaker
    from tasks.audit_trail import AuditTrail
    from tasks.kill.close_claims import CloseClaims
    from tasks.kill.cost import ExitCost
    from tasks.kill.flatten import Flattening
    from tasks.kill.shares import Share


@dataclass(frozen=True, slots=True)
class UnorchestratedStep:
    name: str
    run_name: str
    """What its task run would have been called."""
    begun_at: datetime
    ended_at: datetime
    error: str = ""


@dataclass(slots=True)
class KillRun:
    incident_id: str
    reason: str
    operator: str
    breaker: AsyncCircuitBreaker
    brokers: Mapping[str, Broker]
    settings: KillSettings
    coverage: Coverage
    source: str = "flow"
    """The way in by which it was asked for."""
    run_id: str = field(default_factory=uuid7)
    observers: Sequence[Observer] = ()
    trail: AuditTrail | None = None
    configuration: Settings | None = None
    """Names whom to tell of the end; nobody is told without it."""
    trip_event_id: str | None = None
    """Of the trip that began this run, made or not: confirming it is the same trip, and not another one."""
    resumes: tuple[PendingExit, ...] = ()
    """The pending exits that it was begun for; none for a kill switch that was asked for. It never trips a breaker."""
    unknown: str = ""
    """Why an account that is configured may be missing here, which keeps the rest from being called flat."""
    share: Share | None = None
    """The part of another run that this one is: it neither trips nor tells people, and that one reports all of it."""
    elsewhere: dict[str, Callable[[str], Awaitable[ExitCost]]] = field(default_factory=dict)
    """The accounts that a share in another process closes, each with whom to ask what its exit cost."""
    following: asyncio.Task[None] | None = None
    """Reads what becomes of these shares."""
    halted_after: float | None = None
    first_sweep_after: float | None = None
    """Until every account's venue had answered it."""
    sweeping: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Of accounts whose venues have not answered the first sweep yet, who waits for that."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    clock: RunClock = field(init=False)
    accounts: dict[str, AccountRun] = field(init=False)
    locks: Mapping[str, AccountLock] = field(init=False, default_factory=dict)
    """The venues' locks; none in a run that keeps nothing."""
    flattenings: dict[str, Flattening] = field(default_factory=dict)
    claims: CloseClaims | None = None
    """Of two runs at work on an account, which one sends each close; made with the first flattening."""
    missing: list[str] = field(default_factory=list)
    """Parts that could not be reached, each as a sentence; the run went on without them."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """The orchestrator has started the body."""
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """The body under the orchestrator has ended, with a report or without."""
    unorchestrated_steps: list[UnorchestratedStep] = field(default_factory=list)
    """Steps that ran without the orchestrator, to be shown there once it answers."""
    report: KillReport | None = None
    reported: asyncio.Event = field(default_factory=asyncio.Event)
    pricing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever reads what the exit cost."""
    start_told: bool = False
    """Whoever began this run tells people of its start."""
    priced: asyncio.Event = field(default_factory=asyncio.Event)
    """What the exit cost is in the report, as far as it is known."""
    naming_closes: asyncio.Task[None] | None = None
    """Agrees with other runs on the names of closes; nothing is closed before it has ended."""
    telling_of_start: asyncio.Task[None] | None = None
    """Tells people that it has begun, beside everything else."""
    notifying: asyncio.Lock = field(default_factory=asyncio.Lock)
    notified: bool = False
    """Somebody has begun to tell people of the report, and holds `notifying` until that is done."""
    asking: bool = False
    """Whoever asked for it is being asked to confirm it; until then nothing is cancelled or closed."""
    declined: bool = False
    """Whoever asked for it has not confirmed it: halted, and nothing else."""
    without_orchestrator: bool = False
    """The procedure runs without the orchestrator; a body that it starts now only records."""

    def __post_init__(self) -> None:
        self.clock = RunClock(self.settings.deadline)
        self.accounts = {
            name: AccountRun(
                broker,
                self.incident_id,
                self.settings,
                self.clock,
                self._observe,
                AccountProgress(name),
                self.coverage,
                self._on_disk,
            )
            for name, broker in self.brokers.items()
        }
        if self.configuration is not None:
            settings = self.configuration
            self.locks = {name: AccountLock(account, settings, self.scope) for name, account in self.accounts.items()}

    @property
    def scope(self) -> str:
        """Of the breaker that it trips."""
        return self.coverage.scope

    @property
    def progress(self) -> dict[str, AccountProgress]:
        """Where each account stands."""
        return {name: account.progress for name, account in self.accounts.items()}

    @property
    def elapsed(self) -> float:
        return self.clock.elapsed

    @property
    def trip_requested(self) -> bool:
        """Whoever began this run has asked Redis for the trip before, and was answered or had waited long enough."""
        return self.trip_event_id is not None or self.halted_after is not None

    @property
    def overdue(self) -> bool:
        return self.clock.overdue

    async def swept(self, account: str) -> None:
        """Return once its venue has answered the first sweep or will not: its cancels must not meet closes.

        Not beyond the run's deadline, should an adapter not let go of it.
        """
        if (answering := self.sweeping.get(account)) is not None:
            await asyncio.wait({answering}, timeout=max(self.clock.left, 0.0))

    def update(self, account: str, **changes: Any) -> None:
        self.accounts[account].update(**changes)

    def record(self, action: str, **details: Any) -> None:
        self._observe(action, details)

    def _observe(self, action: str, details: Mapping[str, Any]) -> None:
        for observer in self.observers:
            observer(action, details)

    async def _on_disk(self) -> None:
        if self.trail is not None:
            await self.trail.on_disk()

    def record_missing(self, what: str) -> None:
        if what not in self.missing:
            self.missing.append(what)
            self.record("KILL_SWITCH_WITHOUT", what=what)


current_kill: ContextVar[KillRun] = ContextVar("current_kill")


def make_report(run: KillRun) -> KillReport:
    return KillReport(
        incident_id=run.incident_id,
        reason=run.reason,
        operator=run.operator,
        scope=run.scope,
        covers=str(run.coverage),
        started_at=run.started_at,
        halted_after=run.halted_after,
        first_sweep_after=run.first_sweep_after,
        finished_after=run.elapsed,
        accounts=tuple(run.progress.values()),
        missing=tuple(run.missing),
        unknown=run.unknown,
    )
