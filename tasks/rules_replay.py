"""Run what was measured of an account through the rules' own scripts once more, with other limits, and act on nothing.

In a Redis of its own, started for this and thrown away: neither a breaker nor a measurement of the real one is touched.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path

from redis import Redis

from breaker.keys import Keys
from breaker.limits import Limits, Rule
from breaker.redis_time import to_datetime
from breaker.rule_requests import OTHER_CURRENCY, is_currency
from breaker.rules import Outcome, Rules, Verdict
from configuration.settings import Settings
from sandbox.embedded_redis import EmbeddedRedis
from tasks.checks.equity import texts
from tasks.checks.probe import redis_reader
from tasks.monitor.measurements import measurements_key, read_measurement

_FIGURES = ("equity", "largest_position", "gross_exposure", "maintenance_margin")
_IN_MEMORY = {"appendonly": "no", "save": ""}
_MOST_PARTS = 1_000
_RULES_AT_ONCE = 6


@dataclass(frozen=True, slots=True)
class Recorded:
    """One reading of an account as its monitor keeps it; None for what it had not."""

    at: datetime
    equity: Decimal
    trusted: bool = True
    largest_position: Decimal | None = None
    gross_exposure: Decimal | None = None
    maintenance_margin: Decimal | None = None
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class Transferred:
    """Money that was moved in or out of the account."""

    at: datetime
    amount: Decimal
    transfer_id: str


@dataclass(frozen=True, slots=True)
class WouldTrip:
    """When a measurement first was beyond a limit, after it had been within it."""

    at: datetime
    rule: str
    measured: str
    limit: str
    window: str


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded of one account, oldest first."""

    readings: tuple[Recorded, ...]
    transfers: tuple[Transferred, ...] = ()


async def read_recording(settings: Settings, account: str, scope: str, since: datetime, until: datetime) -> Recording:
    """What the monitor has kept of the account, and what was moved by what the scope's rules were told.

    Raises BreakerUnavailable or RedisRefused.
    """
    stream, moved = measurements_key(account), Keys.of(scope).key("transfers")
    begin, end = (str(int(moment.timestamp() * 1_000)) for moment in (since, until))
    async with redis_reader(settings) as redis:
        entries, transfers = await redis.ask(f"read {stream}", ("XRANGE", stream, begin, end), ("HGETALL", moved))
    return Recording(
        tuple(found for entry in entries for found in _recorded(*read_measurement(entry))),
        tuple(found for found in _transfers(texts(transfers)) if since <= found.at <= until),
    )


def replay(recording: Recording, limits: Limits) -> list[WouldTrip]:
    """When the rules would have tripped by `limits`, in order.

    A trip changes nothing of what follows. Judged are the rules that the recording has measurements for: of equity,
    positions and margin. Its first reading is where the high-water mark begins, and so is the first of another
    currency; a day is one of UTC.

    Raises EmbeddedRedisError.
    """
    dry = replace(limits, dry_run=frozenset(Rule))
    with tempfile.TemporaryDirectory(prefix="breaker-replay-") as folder:
        server = EmbeddedRedis(Path(folder), config=_IN_MEMORY).start()
        try:
            with Redis.from_url(server.url) as client:
                rules = Rules(client, limits=dry)
                try:
                    return list(_crossings(rules, recording))
                finally:
                    rules.close()
        finally:
            server.stop()


def _crossings(rules: Rules, recording: Recording) -> Iterator[WouldTrip]:
    told: set[tuple[str, str]] = set()
    events: list[Recorded | Transferred] = sorted((*recording.transfers, *recording.readings), key=lambda each: each.at)
    for event in events:
        if isinstance(event, Transferred):
            rules.record_transfer(event.amount, event.at, event.transfer_id)
            continue
        outcomes = list(_measured(rules, event))
        if not any(outcome.verdict is Verdict.WOULD_TRIP for outcome in outcomes):
            continue
        for entry in reversed(rules.would_have_tripped(_RULES_AT_ONCE)):
            identity = (entry["rule"], entry["at"])
            if identity not in told:
                told.add(identity)
                yield _would_trip(event.at, entry)


def _measured(rules: Rules, event: Recorded) -> Iterator[Outcome]:
    of_equity = rules.record_equity(event.equity, event.at, trusted=event.trusted, currency=event.currency)
    if of_equity.details.get("kind") == OTHER_CURRENCY:
        rules.rebase_equity()
    yield of_equity
    if event.gross_exposure is not None and event.largest_position is not None:
        yield rules.record_positions(_positions(event.largest_position, event.gross_exposure))
    if event.maintenance_margin is not None:
        yield rules.record_margin(event.maintenance_margin, event.equity)


def _positions(largest: Decimal, gross: Decimal) -> dict[str, tuple[Decimal, Decimal]]:
    """Positions of which the largest and the sum are these: only those two are kept."""
    parts: dict[str, tuple[Decimal, Decimal]] = {}
    left = gross
    while largest > 0 and left > 0 and len(parts) < _MOST_PARTS:
        part = min(largest, left)
        parts[f"PART{len(parts)}"] = (Decimal(1), part)
        left -= part
    return parts


def _would_trip(at: datetime, entry: Mapping[str, str]) -> WouldTrip:
    details = json.loads(entry["details"])
    return WouldTrip(at, entry["rule"], details["measured"], details["limit"], details["window"])


def _recorded(at: datetime, fields: Mapping[str, str]) -> Iterator[Recorded]:
    """One entry of the monitor's stream; nothing for what is none."""
    try:
        known = {name: Decimal(fields[name]) for name in _FIGURES if name in fields}
        currency = fields["currency"] if is_currency(fields.get("currency")) else None
        yield Recorded(at, trusted="untrusted" not in fields, currency=currency, **known)
    except (TypeError, ValueError, InvalidOperation):
        return


def _transfers(stored: Mapping[str, str]) -> list[Transferred]:
    found = []
    for transfer_id, text in stored.items():
        at, _, amount = text.partition(" ")
        try:
            found.append(Transferred(to_datetime(int(at)), Decimal(amount), transfer_id))
        except (ValueError, InvalidOperation):
            continue
    return sorted(found, key=lambda each: (each.at, each.transfer_id))
