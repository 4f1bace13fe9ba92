"""One run of the kill switch: what its steps work with, what they report, and who watches.

The steps find their run in a context variable rather than in their arguments, so that the same step, with the same
readable arguments, runs as a Prefect task and without Prefect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from breaker.uuid7 import uuid7
from brokers.protocol import Broker
from configuration.settings import KillSettings, Settings

if TYPE_CHECKING:
    from breaker import AsyncCircuitBreaker
    from tasks.audit_trail import AuditTrail
    from tasks.kill.flatten import Flattening
    from tasks.kill.report import KillReport


@dataclass(frozen=True, slots=True)
class StuckItem:
    """A symbol that cannot be made flat now, and the venue's reason."""

    symbol: str
    quantity: Decimal
    open_orders: int
    reason: str


@dataclass(frozen=True, slots=True)
class CloseRecord:
    """One close as it was sent, and what became of it as far as is known."""

    symbol: str
    side: str
    quantity: Decimal
    kind: str
    client_order_id: str
    outcome: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AccountProgress:
    """Where one account stands; replaced as a whole at each change, so that a reader never sees half of one."""

    account: str
    phase: str = "waiting"
    orders_at_start: int = 0
    orders_open: int = 0
    positions_at_start: int = 0
    positions_open: int = 0
    notional_at_start: Decimal = Decimal(0)
    canceled: int = 0
    closes_sent: int = 0
    rounds: int = 0
    note: str = ""
    stuck: tuple[StuckItem, ...] = ()
    closes: tuple[CloseRecord, ...] = ()
    no_orders_after: float | None = None
    """Seconds from the start of the run until the venue listed no open order."""
    flat_after: float | None = None
    """Seconds from the start of the run until the first of the readings that agree on flat."""
    flat: bool = False

    @property
    def done(self) -> float:
        """Share of orders and positions that are gone, 0 to 1."""
        total = self.orders_at_start + self.positions_at_start
        left = min(total, self.orders_open + self.positions_open)
        return 1.0 if self.flat else (0.0 if total == 0 else (total - left) / total)


@dataclass(frozen=True, slots=True)
class DirectStep:
    name: str
    arguments: Mapping[str, Any]
    begun_at: datetime
    ended_at: datetime
    error: str = ""


Observer = Callable[[str, Mapping[str, Any]], None]
"""Told of each action: an upper-case word such as `POSITION_CLOSE_SENT`, and its details. Must not block or raise."""


@dataclass(slots=True)
class KillRun:
    incident_id: str
    reason: str
    operator: str
    breaker: AsyncCircuitBreaker
    brokers: Mapping[str, Broker]
    settings: KillSettings
    scope: str = "global"
    source: str = "flow"
    """The way in by which it was asked for."""
    run_id: str = field(default_factory=uuid7)
    observers: Sequence[Observer] = ()
    trail: AuditTrail | None = None
    configuration: Settings | None = None
    """Names whom to tell of the end; nobody is told without it."""
    trip_event_id: str | None = None
    """Of the trip that began this run, made or not: confirming it is the same trip, and not another one."""
    halted_after: float | None = None
    first_sweep_after: float | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)
    progress: dict[str, AccountProgress] = field(default_factory=dict)
    flattenings: dict[str, Flattening] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    """Parts that could not be reached, each as a sentence; the run went on without them."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """The orchestrator has started the body."""
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """The body under the orchestrator has ended, with a report or without."""
    done_directly: list[DirectStep] = field(default_factory=list)
    """Steps that ran without the orchestrator, to be shown there once it answers."""
    report: KillReport | None = None
    reported: asyncio.Event = field(default_factory=asyncio.Event)
    telling: asyncio.Lock = field(default_factory=asyncio.Lock)
    told: bool = False
    """Somebody has begun to tell people of the report, and holds `telling` until that is done."""
    taken_over: bool = False
    """The procedure runs without the orchestrator; a body that it starts now only records."""

    def __post_init__(self) -> None:
        for name in self.brokers:
            self.progress[name] = AccountProgress(name)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def trip_was_asked_for(self) -> bool:
        """Whoever began this run has asked Redis for the trip before, and was answered or had waited long enough."""
        return self.trip_event_id is not None or self.halted_after is not None

    @property
    def overdue(self) -> bool:
        return self.elapsed >= self.settings.deadline

    def update(self, account: str, **changes: Any) -> None:
        self.progress[account] = replace(self.progress[account], **changes)

    def tell(self, action: str, **details: Any) -> None:
        for observer in self.observers:
            observer(action, details)

    def miss(self, what: str) -> None:
        if what not in self.missing:
            self.missing.append(what)
            self.tell("KILL_SWITCH_WITHOUT", what=what)


current_run: ContextVar[KillRun] = ContextVar("current_run")
