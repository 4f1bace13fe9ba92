"""Tell what a kill switch leaves to be closed later, when that is tried again, and what becomes of it. Pure.

What a kill switch could not close now is a *pending exit*. It is tried again when its session opens or, where nobody
knows when its reason ends, after waits that double, until the account is flat or a person drops it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache

from pydantic import AwareDatetime, TypeAdapter

from breaker.orders import ZERO, PositionKey
from breaker.store_identity import StoreIdentity
from brokers.coverage import Coverage
from tasks.kill.account import AccountProgress

OPENED_FOR = timedelta(seconds=3)
"""How long a session has been open before what waited for it is tried: at the bell itself a venue may still refuse."""
FIRST_WAIT = timedelta(minutes=1)
LONGEST_WAIT = timedelta(minutes=15)
"""Bounds of the wait where nobody knows when the reason ends; it doubles from the first to the second."""
OVERDUE_AFTER = timedelta(minutes=5)
"""How late an exit may be tried again before somebody has to look why nobody does."""
WHOLE_ACCOUNT = "*"
"""Stands for the symbols of an account that is not flat, where nobody could tell which they are."""


@dataclass(frozen=True, slots=True)
class PendingExit:
    """One position of one account that was not closed. Times are UTC."""

    account: str
    symbol: str
    """The key of the position: in hedge mode the side stands behind the symbol."""
    quantity: Decimal
    """Signed, as the position was; zero where only orders are left, or it could not be read."""
    reason: str
    incident_id: str
    scope: str
    """Of the breaker whose kill switch left it, and which has to be halted for it to be tried again."""
    since: AwareDatetime
    tried_at: AwareDatetime
    """When a kill switch last had it and could not close it."""
    resume_at: AwareDatetime | None = None
    """When its session opens; None where it is not known when its reason ends."""
    tries: int = 0
    """How often it was tried again in vain since there was last a time to wait for."""
    held: str = ""
    """Why it was not tried when it was due, empty unless that was so."""

    @property
    def next_try(self) -> datetime:
        """When it is to be tried again."""
        if self.resume_at is not None:
            return self.resume_at + OPENED_FOR
        return self.tried_at + min(FIRST_WAIT * (1 << min(self.tries, 10)), LONGEST_WAIT)

    @property
    def what(self) -> str:
        """Account, symbol and quantity, as people read them."""
        symbol = "what is left" if self.symbol == WHOLE_ACCOUNT else self.symbol
        return f"{self.account} {symbol}" + (f" {self.quantity:f}" if self.quantity else "")

    def __str__(self) -> str:
        held = f"; {self.held}" if self.held else ""
        return f"{self.what}: {self.reason}{held}; tried again at {self.next_try:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True, slots=True)
class AccountExits:
    """Everything that is pending in one account, as a whole: the newer of two such values is the true one."""

    account: str
    as_of: AwareDatetime
    exits: tuple[PendingExit, ...] = ()
    kept_for: StoreIdentity | None = None
    """On a host's disk: the Redis in which the same is kept, or was to be; None in a file of an older version."""

    def is_for(self, here: StoreIdentity) -> bool:
        return self.kept_for is None or self.kept_for.is_same(here)

    def to_json(self) -> str:
        return _account_adapter().dump_json(self).decode()

    @classmethod
    def from_json(cls, raw: bytes | str) -> AccountExits:
        """Raises ValueError."""
        return _account_adapter().validate_json(raw)


@dataclass(frozen=True, slots=True)
class Resumption:
    """What one run of the kill switch resumes: exits of one incident and one breaker."""

    incident_id: str
    scope: str
    exits: tuple[PendingExit, ...]

    @property
    def accounts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(pending.account for pending in self.exits))

    @property
    def due_at(self) -> datetime:
        return min(pending.next_try for pending in self.exits)


def is_covered(pending: PendingExit, coverage: Coverage) -> bool:
    """Whether a kill switch that covers so much deals with the exit."""
    if pending.symbol == WHOLE_ACCOUNT:
        return coverage.whole_accounts
    return coverage.covers_symbol(PositionKey.read(pending.symbol).symbol)


def left_by(
    progress: AccountProgress, before: Sequence[PendingExit], *, incident_id: str, coverage: Coverage, now: datetime
) -> tuple[PendingExit, ...]:
    """What is pending in an account once a kill switch has ended; nothing when it is flat.

    Nor where it can't be told which positions are covered: nothing would ever end that.

    Whatever was stuck is pending, whether a position or an order is left of it. Dust is not, as nobody can close it. An
    account that is not flat, of which nothing more is known, keeps what was pending `before`.
    """
    if progress.flat or not coverage.positions_known:
        return ()
    scope = coverage.scope
    known = {pending.symbol: pending for pending in before}
    if not progress.stuck:
        kept = tuple(_tried_in_vain(replace(pending, incident_id=incident_id, scope=scope), now) for pending in before)
        why = progress.note or f"{progress.phase}; it was not proven flat"
        left = coverage.symbol or WHOLE_ACCOUNT
        return kept or (PendingExit(progress.account, left, ZERO, why, incident_id, scope, now, now),)
    found = []
    for item in progress.stuck:
        earlier = known.get(item.symbol)
        pending = PendingExit(
            account=progress.account,
            symbol=item.symbol,
            quantity=item.quantity,
            reason=item.reason,
            incident_id=incident_id,
            scope=scope,
            since=earlier.since if earlier else now,
            tried_at=now,
            resume_at=item.until if item.until is not None and item.until > now else None,
        )
        if earlier is not None and pending.resume_at is None and earlier.resume_at is None:
            pending = replace(pending, tries=earlier.tries + 1)
        found.append(pending)
    return tuple(found)


def newer_than(before: Iterable[PendingExit], now: datetime) -> datetime:
    """`now`, or just after what is known if that was written by a clock ahead of ours: what replaces it is newer."""
    return max([now, *(pending.tried_at + timedelta(microseconds=1) for pending in before)])


def held_back(pending: PendingExit, why: str, now: datetime) -> PendingExit:
    """The exit after it was due and not tried, as `why` says."""
    return replace(_tried_in_vain(pending, now), held=why)


def _tried_in_vain(pending: PendingExit, now: datetime) -> PendingExit:
    """What has a time to wait for keeps it; everything else waits for longer than before."""
    if pending.resume_at is not None and pending.resume_at > now:
        return replace(pending, tried_at=now, held="")
    again = 0 if pending.resume_at is not None else pending.tries + 1
    return replace(pending, tried_at=now, resume_at=None, tries=again, held="")


def begun(before: Iterable[PendingExit], after: Iterable[PendingExit]) -> list[PendingExit]:
    """Those that were not pending before."""
    known = {(pending.account, pending.symbol) for pending in before}
    return [pending for pending in after if (pending.account, pending.symbol) not in known]


def over(before: Iterable[PendingExit], after: Iterable[PendingExit]) -> list[PendingExit]:
    """Those that are pending no more."""
    return begun(after, before)


def is_news(before: Iterable[PendingExit], after: Iterable[PendingExit]) -> bool:
    """Whether people who know of `before` need to be told of `after`: not of a try that has changed nothing."""

    def told(some: Iterable[PendingExit]) -> set[tuple[str, str, Decimal, datetime | None]]:
        return {(pending.account, pending.symbol, pending.quantity, pending.resume_at) for pending in some}

    return told(before) != told(after)


def due_accounts(exits: Iterable[PendingExit], now: datetime) -> frozenset[str]:
    """The accounts in which something is to be tried again by now; a kill switch then takes all that is in them."""
    return frozenset(pending.account for pending in exits if pending.next_try <= now)


def overdue(exits: Iterable[PendingExit], now: datetime, after: timedelta = OVERDUE_AFTER) -> list[PendingExit]:
    """Those that were to be tried again more than `after` ago."""
    return [pending for pending in exits if now - pending.next_try > after]


def resumptions(exits: Iterable[PendingExit]) -> list[Resumption]:
    """The runs that these exits need, each with one incident's, so that its closes are known by their names."""
    grouped: dict[tuple[str, str], list[PendingExit]] = {}
    for pending in exits:
        grouped.setdefault((pending.incident_id, pending.scope), []).append(pending)
    return [Resumption(incident, scope, tuple(some)) for (incident, scope), some in grouped.items()]


def to_json(pending: PendingExit) -> str:
    return _exit_adapter().dump_json(pending).decode()


def from_json(raw: bytes | str) -> PendingExit:
    """Raises ValueError."""
    return _exit_adapter().validate_json(raw)


def as_dict(pending: PendingExit) -> dict[str, object]:
    """JSON types only, with the time of the next try."""
    body: dict[str, object] = json.loads(to_json(pending))
    return {**body, "next_try": pending.next_try.isoformat()}


@cache
def _exit_adapter() -> TypeAdapter[PendingExit]:
    return TypeAdapter(PendingExit)


@cache
def _account_adapter() -> TypeAdapter[AccountExits]:
    return TypeAdapter(AccountExits)
