"""Tell which accounts a kill switch has locked at their venue, and whose a lock is that is found there. Pure.

An account that is flat stays flat: its venue refuses new orders until the breaker is reset. A lock is *ours* only as
long as it is on record that a kill switch has set it; what a person has set is never lifted.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache

from pydantic import AwareDatetime, TypeAdapter

from tasks.kill.account import AccountProgress

UNFINISHED_AFTER = timedelta(minutes=2)
"""How long setting or lifting may take before whoever began it has died."""


class Phase(StrEnum):
    """Written before the venue is asked, and after it has been read back: a crash in between leaves the lock ours."""

    SETTING = "setting"
    SET = "set"
    LIFTING = "lifting"
    LIFTED = "lifted"


@dataclass(frozen=True, slots=True)
class VenueLock:
    """One account's lock, as it is kept. The one with the higher version is the true one."""

    account: str
    phase: Phase
    version: int
    """Unix microseconds of when it was written, or just above what it replaces."""
    since: AwareDatetime
    """When the kill switch began to set it; UTC."""
    holders: Mapping[str, str]
    """The incidents that it is for, by the scope of the breaker whose reset ends that."""
    lifted_elsewhere: AwareDatetime | None = None
    """When it was first found lifted by somebody else; None where it is on."""

    @property
    def ours(self) -> bool:
        """If trading is suspended in the account, a kill switch has done that."""
        return self.phase is not Phase.LIFTED

    @property
    def changed_at(self) -> datetime:
        return datetime.fromtimestamp(self.version / 1_000_000, UTC)

    @property
    def incidents(self) -> str:
        """As people read them."""
        return ", ".join(dict.fromkeys(self.holders.values()))

    def __str__(self) -> str:
        if self.lifted_elsewhere is not None:
            return (
                f"{self.account} was locked at its venue by the kill switch of incident {self.incidents}, and somebody "
                f"has lifted that: seen at {self.lifted_elsewhere:%Y-%m-%d %H:%M:%S} UTC"
            )
        since = f"{self.since:%Y-%m-%d %H:%M:%S} UTC, incident {self.incidents}"
        match self.phase:
            case Phase.SETTING:
                return f"{self.account} is being locked at its venue, since {since}"
            case Phase.LIFTING:
                return f"{self.account} is being unlocked at its venue; it was locked at {since}"
            case Phase.SET | Phase.LIFTED:
                return f"{self.account} is locked at its venue, since {since}; the reset lifts that"


def why_not(progress: AccountProgress, *, whole_account: bool, suspends_trading: bool) -> str:
    """Why an account is not to be locked at the end of a run; empty where it is."""
    if not suspends_trading:
        return "not locked at the venue, which has no lock that could be set from here"
    if not whole_account:
        return "not locked at the venue, as only a part of the account was to be closed"
    if not progress.flat and progress.stuck:
        named = ", ".join(item.symbol for item in progress.stuck[:5])
        return f"not locked at the venue, as it would refuse to close what is left: {named}"
    return "" if progress.flat else "not locked at the venue, as the account is not proven flat"


def is_foreign(known: VenueLock | None, *, suspended: bool) -> bool:
    """Whether it is somebody else who has suspended trading."""
    return suspended and (known is None or not known.ours)


def begun(known: VenueLock | None, account: str, scope: str, incident_id: str, now: datetime) -> VenueLock:
    """The lock that a kill switch is about to set, also for those for whom it was set before."""
    return VenueLock(
        account=account,
        phase=Phase.SETTING,
        version=_version(known, now),
        since=known.since if known is not None and known.ours else now,
        holders={**(known.holders if known is not None else {}), scope: incident_id},
    )


def in_phase(known: VenueLock, phase: Phase, now: datetime) -> VenueLock:
    return replace(known, phase=phase, version=_version(known, now), lifted_elsewhere=None)


def without(known: VenueLock, scopes: Collection[str], now: datetime) -> VenueLock:
    """The lock after the breakers of these scopes were reset."""
    left = {scope: incident for scope, incident in known.holders.items() if scope not in scopes}
    return replace(known, holders=left, version=_version(known, now))


def seen(known: VenueLock, *, suspended: bool, now: datetime) -> VenueLock:
    """The lock after the venue was asked whether trading is suspended; the same where that is no news."""
    lifted = known.phase is Phase.SET and not suspended
    if lifted == (known.lifted_elsewhere is not None):
        return known
    return replace(known, lifted_elsewhere=now if lifted else None, version=_version(known, now))


def is_unfinished(known: VenueLock, *, suspended: bool, now: datetime) -> bool:
    """Whether a kill switch was about to set it, or had lifted it to close something, and seems to have died then."""
    going_on = known.phase in (Phase.SETTING, Phase.LIFTING)
    return going_on and not suspended and now - known.changed_at > UNFINISHED_AFTER


def to_json(lock: VenueLock) -> str:
    return _adapter().dump_json(lock).decode()


def from_json(raw: bytes | str) -> VenueLock:
    """Raises ValueError."""
    return _adapter().validate_json(raw)


def as_dict(lock: VenueLock) -> dict[str, object]:
    """JSON types only."""
    body: dict[str, object] = json.loads(to_json(lock))
    return body


def _version(known: VenueLock | None, now: datetime) -> int:
    return max(int(now.timestamp() * 1_000_000), known.version + 1 if known is not None else 0)


@cache
def _adapter() -> TypeAdapter[VenueLock]:
    return TypeAdapter(VenueLock)
