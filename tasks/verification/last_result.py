"""Remember what the last verification found, so that people are told once per change and not once a minute.

Kept in Redis and, for when that is what fails, in the state directory; the newer of the two counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Self

from breaker.atomic_file import write_atomically
from breaker.errors import BreakerError
from configuration.settings import Settings
from tasks.checks.probe import redis_reader

KEY = "circuit_breaker:verification"
WALK_EVERY = timedelta(days=1)
"""How often the ledger's whole chain is walked."""


class Change(Enum):
    """What people are told of a verification, compared with the last."""

    NONE = "none"
    FAILED = "failed"
    RECOVERED = "recovered"


@dataclass(frozen=True, slots=True)
class LastVerification:
    """`failing` are the names of red measurements, `walked_at` is when the whole chain was last found unbroken, and
    `compared_to` the last row of the ledger whose news was told.
    """

    checked_at: datetime
    failing: tuple[str, ...] = ()
    walked_at: datetime | None = None
    compared_to: int | None = None

    def walk_is_due(self, now: datetime) -> bool:
        return self.walked_at is None or now - self.walked_at >= WALK_EVERY

    def to_json(self) -> str:
        fields = asdict(self)
        times = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()}
        return json.dumps(times)

    @classmethod
    def from_json(cls, raw: str | bytes) -> Self:
        """Raises ValueError, KeyError or TypeError for what `to_json` didn't write."""
        fields = json.loads(raw)
        walked = fields["walked_at"]
        return cls(
            checked_at=datetime.fromisoformat(fields["checked_at"]),
            failing=tuple(str(name) for name in fields["failing"]),
            walked_at=None if walked is None else datetime.fromisoformat(walked),
            compared_to=fields["compared_to"],
        )


def change_since(before: Sequence[str], failing: Sequence[str]) -> Change:
    """Bad news is a name that was not failing before; good news is that none is left. Fewer of them is no news."""
    if set(failing) - set(before):
        return Change.FAILED
    return Change.RECOVERED if before and not failing else Change.NONE


async def read_last(settings: Settings) -> LastVerification | None:
    """None when there was none, or nothing of it can be read. Never raises."""
    candidates = [_parsed(_read_file(settings))]
    try:
        async with redis_reader(settings) as redis:
            candidates.append(_parsed((await redis.ask(f"read {KEY}", ("GET", KEY)))[0]))
    except BreakerError:
        pass  # the verification's own checks say that Redis is away
    return max((found for found in candidates if found is not None), key=lambda found: found.checked_at, default=None)


async def write_last(settings: Settings, last: LastVerification) -> list[str]:
    """Returns what kept it from being written to either place, as sentences. Never raises."""
    problems = []
    try:
        _write_file(settings, last.to_json())
    except OSError as error:
        problems.append(f"{_file(settings)} can't be written ({error.strerror})")
    try:
        async with redis_reader(settings) as redis:
            await redis.ask(f"write {KEY}", ("SET", KEY, last.to_json()))
    except BreakerError as error:
        problems.append(str(error))
    return problems


def _file(settings: Settings) -> Path:
    return settings.state_dir / "verification.json"


def _read_file(settings: Settings) -> bytes | None:
    try:
        return _file(settings).read_bytes()
    except OSError:
        return None


def _write_file(settings: Settings, text: str) -> None:
    path = _file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text, mode=0o644)


def _parsed(raw: bytes | None) -> LastVerification | None:
    try:
        return None if raw is None else LastVerification.from_json(raw)
    except (ValueError, KeyError, TypeError):
        return None
