"""Hold one account's part in a run of the kill switch: where it stands, and what its steps work with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from brokers.coverage import Coverage
from brokers.protocol import BROKEN_OFF, Broker, BrokerUnavailable, is_interrupted, repeat_until
from configuration.settings import KillSettings
from tasks.kill.book import Book
from tasks.kill.opening_book import OpeningBook

ANSWERS_AFTER_DEADLINE = 3.0
"""Seconds beyond the run's deadline for which an answer of the venue is waited for."""
LAST_QUESTION = 1.0
"""Seconds that one may take which is asked later still, so that the end is told by what the venue says then."""

_T = TypeVar("_T")

Observer = Callable[[str, Mapping[str, Any]], None]
"""Told of each action: an upper-case word such as `POSITION_CLOSE_SENT`, and its details. Must not block or raise."""


class TimeIsUp(BrokerUnavailable):
    """The run had to end before the venue answered. Whether what was asked has been done is not known."""


class BrokenOff(BrokerUnavailable):
    """The adapter ended a request of its own accord. Whether what was asked has been done is not known."""


@dataclass(frozen=True, slots=True)
class StuckItem:
    """A position that cannot be made flat now, and the venue's reason."""

    symbol: str
    """Its key: in hedge mode the side stands behind the symbol."""
    quantity: Decimal
    open_orders: int
    reason: str
    until: datetime | None = None
    """When its session opens, where that is what it waits for; UTC."""


@dataclass(frozen=True, slots=True)
class CloseRecord:
    """One close as it was sent, and what became of it as far as is known."""

    symbol: str
    """The key of its position."""
    side: str
    quantity: Decimal
    kind: str
    client_order_id: str
    outcome: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LockResult:
    """What came of locking the account at its venue."""

    engaged: bool
    """The lock is a kill switch's, and the venue says that it is on."""
    said: str
    """In a sentence."""


@dataclass(frozen=True, slots=True)
class AccountProgress:
    """Where one account stands; replaced as a whole at each change, so that a reader never sees half of one."""

    account: str
    phase: str = "waiting"
    orders_at_start: int | None = None
    """None, here and below, is what has not been read yet, which is something else than none."""
    orders_open: int | None = None
    positions_at_start: int | None = None
    positions_open: int | None = None
    notional_at_start: Decimal | None = None
    canceled: int = 0
    closes_sent: int = 0
    rounds: int = 0
    note: str = ""
    stuck: tuple[StuckItem, ...] = ()
    dust: tuple[StuckItem, ...] = ()
    """Positions below the venue's minimum."""
    closes: tuple[CloseRecord, ...] = ()
    no_orders_after: float | None = None
    """Seconds from the start of the run until the venue listed no open order."""
    flat_after: float | None = None
    """Seconds from the start of the run until the first of the readings that agree on flat."""
    flat: bool = False
    venue_lock: LockResult | None = None
    """None where none was to be set."""

    @property
    def done(self) -> float:
        """Share of orders and positions that are gone, 0 to 1."""
        if self.flat:
            return 1.0
        total = (self.orders_at_start or 0) + (self.positions_at_start or 0)
        if not total or self.orders_open is None or self.positions_open is None:
            return 0.0
        return (total - min(total, self.orders_open + self.positions_open)) / total


@dataclass(slots=True)
class RunClock:
    """How long a run has been going on, on the monotonic clock, and how long it may."""

    deadline: float
    """Seconds from the start."""
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def overdue(self) -> bool:
        return self.elapsed >= self.deadline

    @property
    def left(self) -> float:
        """Seconds until the deadline; less than none beyond it."""
        return self.deadline - self.elapsed


@dataclass(slots=True)
class AccountRun:
    """One account of one run. `record` adds the account to whatever it says."""

    broker: Broker
    incident_id: str
    settings: KillSettings
    clock: RunClock
    observe: Callable[[str, Mapping[str, Any]], None]
    progress: AccountProgress
    coverage: Coverage
    """What of the account may be touched."""
    on_disk: Callable[[], Awaitable[None]]
    """Awaited before the venue is asked for anything: what was done until then is on record."""
    opening: OpeningBook = field(default_factory=OpeningBook)
    """What the cost of the exit is measured against."""
    currency: str = ""
    """The account's; empty until the venue has told."""
    closes_as: str = field(init=False)
    """The incident that its closes are named by: its own, or that of a run which was at work there before it."""

    def __post_init__(self) -> None:
        self.closes_as = self.incident_id

    @property
    def whole_account(self) -> bool:
        """Everything in the account is to be closed, and not a part of it."""
        return self.coverage.whole_accounts

    @property
    def name(self) -> str:
        return self.progress.account

    @property
    def elapsed(self) -> float:
        return self.clock.elapsed

    @property
    def overdue(self) -> bool:
        return self.clock.overdue

    async def in_time(self, asked: Awaitable[_T], more: float = 0.0) -> _T:
        """The venue's answer; `more` are seconds beyond the run's deadline.

        An adapter is asked to repeat nothing after that, and cut off `ANSWERS_AFTER_DEADLINE` later. Raises `TimeIsUp`
        then, `BrokenOff`, and whatever the adapter does.
        """
        try:
            await self.on_disk()
        except BaseException:
            if asyncio.iscoroutine(asked):  # one that was interrupted first is never asked
                asked.close()
            raise
        left = self.clock.left + more
        repeating = repeat_until.set(time.monotonic() + left)
        limit = asyncio.timeout(max(left + ANSWERS_AFTER_DEADLINE, LAST_QUESTION))
        try:
            async with limit:
                return await asked
        except TimeoutError:
            if not limit.expired():  # the adapter's own
                raise
            raise TimeIsUp(
                f"{self.name}: no answer of the venue when the time was up, after {self.settings.deadline:g} s; "
                "look there",
                account=self.name,
            ) from None
        except asyncio.CancelledError:
            if is_interrupted():
                raise
            raise BrokenOff(f"{self.name}: {BROKEN_OFF}", account=self.name) from None
        finally:
            repeat_until.reset(repeating)

    def update(self, **changes: Any) -> None:
        """Replace the progress by one with `changes`."""
        self.progress = replace(self.progress, **changes)

    def note_book(self, book: Book) -> None:
        """A reading of the whole book."""
        self.opening.note_orders(book.orders, self.closes_as)
        self.opening.note_positions(book.positions, book.unreadable, self.elapsed)

    def record(self, action: str, **details: Any) -> None:
        self.observe(action, {"account": self.name, **details})
