"""Convert Redis's own time, in which every state and event of a breaker is dated, to and from Python's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds_of(time_reply: Sequence[Any]) -> int:
    """Unix microseconds of a reply to `TIME`: seconds, and microseconds of the second."""
    return int(time_reply[0]) * 1_000_000 + int(time_reply[1])


def to_datetime(microseconds: int) -> datetime:
    """The UTC time so many microseconds after the Unix epoch."""
    return _UNIX_EPOCH + timedelta(microseconds=microseconds)


def to_microseconds(moment: datetime) -> int:
    """Unix microseconds of a time that has a zone."""
    return (moment - _UNIX_EPOCH) // timedelta(microseconds=1)
