"""Tell when money was moved, as far as the venue says so, and otherwise from the equity itself. Pure.

A transfer of which only the day is known, and which the venue lists late, is in the equity since some reading of that
day. Taken for moved now, a deposit would count as a gain first and then as a loss. It is put where it explains most of
what the equity did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from brokers.protocol import Transfer

CLOCKS_APART = timedelta(seconds=5)
"""By how much the venue's clock may be off Redis's."""
_BEFORE_DAY, _AFTER_DAY = timedelta(hours=14), timedelta(hours=36)
"""How far a day reaches around its beginning in UTC: at the venue it may be any zone's."""
_AS_GOOD = Decimal("0.5")
"""An interval that explains this share of what the best one does can't be told apart from it."""
_TRACE = Decimal("0.25")
"""The share of a transfer that has to show in the equity for it to have been moved since the first reading."""


@dataclass(frozen=True, slots=True)
class KnownEquity:
    """One reading of an account."""

    at: datetime
    equity: Decimal


@dataclass(slots=True)
class _Interval:
    """Between two readings, or since the last one: what no known transfer explains of its change."""

    since: datetime
    until: datetime | None
    """None for the reading that is being made."""
    unexplained: Decimal

    def explained_by(self, amount: Decimal) -> Decimal:
        """How much less is unexplained if that was moved in it."""
        return abs(self.unexplained) - abs(self.unexplained - amount)


def moved_at(transfer: Transfer, previous: datetime | None) -> datetime | None:
    """When the rules are to take it for moved: None for now, as the next reading of equity has it.

    The venue's time is believed where the equity was read since (`previous` is when), so that this reading had it
    already; but neither a time that is only a day, nor one so near that the clocks may have it before or after.
    """
    if transfer.by_day or previous is None or transfer.at >= previous - CLOCKS_APART:
        return None
    return transfer.at


def day_began(transfers: Iterable[Transfer]) -> datetime:
    """The earliest time at which one of them may have been moved, of which only the day is known."""
    return min(each.at for each in transfers) - _BEFORE_DAY


def moved_on_their_days(
    transfers: Iterable[Transfer],
    readings: Sequence[KnownEquity],
    equity: Decimal,
    known: Iterable[tuple[datetime | None, Decimal]],
) -> dict[str, datetime | None]:
    """By id when each transfer is to be taken for moved, of which only the day is known; None for now, as above.

    Where several intervals explain it as well, the one counts that leaves the greater fall: the last for what came in,
    the first for what went out.

    Args:
        transfers: The venue lists them by now.
        readings: Of the account, oldest first; one at least.
        equity: Read since they were listed.
        known: What else was moved: when, or None for since the last reading, and how much.
    """
    intervals = [
        *(_Interval(before.at, after.at, after.equity - before.equity) for before, after in pairwise(readings)),
        _Interval(readings[-1].at, None, equity - readings[-1].equity),
    ]
    for at, amount in known:
        for interval in intervals:
            if _is_within(at, interval):
                interval.unexplained -= amount
    placed: dict[str, datetime | None] = {}
    for transfer in sorted(transfers, key=lambda each: abs(each.amount), reverse=True):
        found = _interval_of(transfer, intervals)
        if found is None:
            placed[transfer.id] = min(readings[0].at, transfer.at)
            continue
        found.unexplained -= transfer.amount
        placed[transfer.id] = found.until
    return placed


def _is_within(at: datetime | None, interval: _Interval) -> bool:
    """A reading has what was moved by its time."""
    if at is None or interval.until is None:
        return interval.until is None and (at is None or at > interval.since)
    return interval.since < at <= interval.until


def _interval_of(transfer: Transfer, intervals: Sequence[_Interval]) -> _Interval | None:
    """Where it was moved; None for before the first reading."""
    begin, end = transfer.at - _BEFORE_DAY, transfer.at + _AFTER_DAY
    possible = [each for each in intervals if each.since < end and (each.until is None or each.until > begin)]
    if not possible:
        return None
    amount = transfer.amount
    best = max(each.explained_by(amount) for each in possible)
    # What is moved with a loss beside it shows in part; so does not what was in the equity before anybody looked.
    if begin < intervals[0].since and best < (2 * _TRACE - 1) * abs(amount):
        return None
    enough = best * _AS_GOOD if best > 0 else best
    as_good = [each for each in possible if each.explained_by(amount) >= enough]
    return as_good[-1] if amount > 0 else as_good[0]
