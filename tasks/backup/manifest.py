"""Say what an archive holds, in the manifest that is its first member."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

from breaker.errors import BreakerError

FORMAT = 1
"""Of the archive; a later one may not be readable here."""


class BackupUnusable(BreakerError):
    """An archive is damaged, cut short, of a later version, or none at all. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BreakerAtBackup:
    """What Redis held for one breaker. `epoch` is None where the state has none."""

    scope: str
    state: str
    epoch: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is in the archive, of what, and of when. Times are ISO 8601 in UTC; holds no secret."""

    version: str
    """Of the program that made it."""
    made_at: str
    made_by: str
    host: str
    environment: str
    redis_address: str
    redis_id: str | None
    schema: Mapping[str, str]
    """The revision of each set of tables, by the table that keeps it."""
    rows: int
    """Of the audit log."""
    head_seq: int
    head_hash: str
    chain: str
    """Empty for a whole chain; otherwise what was wrong with it when it was copied."""
    tables: Mapping[str, int]
    """Rows of the console's tables."""
    breakers: tuple[BreakerAtBackup, ...]
    redis_keys: int
    state_files: int
    with_keys: bool
    """Whether the console's key, by which sessions are signed, is in it."""
    members: tuple[Member, ...] = ()

    @property
    def moment(self) -> datetime:
        return datetime.fromisoformat(self.made_at).astimezone(UTC)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises BackupUnusable."""
        try:
            values: dict[str, Any] = json.loads(text)
            known = values.pop("format")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unreadable(error) from None
        if known != FORMAT:
            raise BackupUnusable(f"its format is {known}, and this version reads {FORMAT}; nothing was changed")
        try:
            values["members"] = tuple(Member(**each) for each in values["members"])
            values["breakers"] = tuple(BreakerAtBackup(**each) for each in values["breakers"])
            found = cls(**values)
            found.moment  # noqa: B018  reading it is what checks it
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unreadable(error) from None
        return found


def _unreadable(error: Exception) -> BackupUnusable:
    return BackupUnusable(f"its manifest can't be read ({error}); nothing was changed")
