"""Slow down who guesses passwords, without letting them lock out whom they guess at.

Kept in the database, where every console counts the same failures, and without which nobody can sign in anyway.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, case, delete, select, text, update

from console.auth.tables import failures
from ledger.ledger import Ledger
from ledger.transactions import reading, writing

FREE = 5
"""Failures before the first wait."""
FIRST_WAIT = 5.0
LONGEST_WAIT = 900.0
FORGET = 3_600.0
"""Seconds without a failure after which all is forgotten."""


@dataclass(frozen=True, slots=True)
class Failures:
    """How many there were, and when the last one was (Unix seconds)."""

    count: int = 0
    last: float = 0.0

    def lately(self, now: float) -> Failures:
        return self if now - self.last < FORGET else Failures()

    def wait(self, now: float) -> float:
        """Seconds until the next attempt; 0 if at once. Never more than LONGEST_WAIT, whatever the clocks say."""
        if self.count < FREE:
            return 0.0
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(self.count - FREE, 20))
        return min(wait, max(0.0, self.last + wait - now))


class Throttle:
    """Failed sign-ins by address, and by user and address together. Methods raise LedgerError.

    Not by user alone: whoever knows a name could keep its owner out, in the very moment when it matters.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def attempt(self, user: str, address: str, now: float) -> float:
        """Seconds that this attempt comes too early; 0 lets it go on, counted as a failure until it `succeeded`.

        Counted before it is known, so that attempts made at once, also at several consoles, don't all go free.
        """
        keys = _keys(user, address)
        wanted = select(failures).where(failures.c.key.in_(keys)).order_by(failures.c.key)
        with reading(self._ledger) as connection:
            found = _counted(connection.execute(wanted).all(), now)
        # Most attempts of somebody who guesses end here, without a place among the writers.
        if (early := _wait(found, now)) > 0:
            return early
        with writing(self._ledger) as connection:
            connection.execute(delete(failures).where(failures.c.last < now - FORGET))
            connection.execute(_ADD, [{"key": key, "last": now} for key in sorted(keys)])
            found = _counted(connection.execute(wanted.with_for_update()).all(), now)
            if (early := _wait(found, now)) > 0:
                return early
            for key, before in found.items():
                connection.execute(
                    update(failures).where(failures.c.key == key).values(failed=before.count + 1, last=now)
                )
        return 0.0

    def succeeded(self, user: str, address: str) -> None:
        """The attempt counted last was none. Failures with other names from that address stay."""
        own, shared = _keys(user, address)
        less = case((failures.c.failed > 0, failures.c.failed - 1), else_=0)
        with writing(self._ledger) as connection:
            connection.execute(delete(failures).where(failures.c.key == own))
            connection.execute(update(failures).where(failures.c.key == shared).values(failed=less))


_ADD = text(
    "INSERT INTO console_sign_in_failures (key, failed, last) VALUES (:key, 0, :last) ON CONFLICT (key) DO NOTHING"
)


def _counted(rows: Iterable[Row[Any]], now: float) -> dict[str, Failures]:
    return {row.key: Failures(row.failed, row.last).lately(now) for row in rows}


def _wait(found: Mapping[str, Failures], now: float) -> float:
    return max((failures.wait(now) for failures in found.values()), default=0.0)


def _keys(user: str, address: str) -> tuple[str, str]:
    """Hashed, as people type passwords where their names belong."""
    whence = network_of(address)
    return _hashed("user and address", user, whence), _hashed("address", whence)


def _hashed(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def network_of(address: str) -> str:
    """Who counts as one: with IPv6 everybody has a whole /64, of which no address has to be used twice."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))
