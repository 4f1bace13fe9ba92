"""Format times, durations and amounts as people read them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from tasks.amounts import grouped

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))
_NAMED = 10


def utc(moment: datetime | None) -> str:
    return "—" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def parsed(text: str) -> datetime | None:
    """What an ISO 8601 text with a zone stands for; None where it stands for nothing."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None


def duration(seconds: float) -> str:
    """In whole units of the largest that fits."""
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(max(seconds, 0))} s"


def money(value: Decimal | None, currency: str = "") -> str:
    return "—" if value is None else grouped(value, currency)


def quantity(value: Decimal) -> str:
    """Without the zeros that a venue appends."""
    return f"{value.normalize():,f}"


def detail(value: object) -> str:
    """What a trip's details hold, as text; of a long list the beginning."""
    if not isinstance(value, list):
        return str(value)
    more = f" and {len(value) - _NAMED} more" if len(value) > _NAMED else ""
    return " ".join(map(str, value[:_NAMED])) + more
