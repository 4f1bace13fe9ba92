"""Run what was measured of an account through the rules' own scripts once more, with other limits, and act on nothing.

In a Redis of its own, started for this and thrown away: neither a breaker nor a measurement of the real one is touched.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from redis import Redis

from breaker.errors import BreakerError, InvalidInput
from breaker.keys import GLOBAL, Keys
from breaker.limits import Limits, Rule
from breaker.redis_time import to_datetime
from breaker.rule_requests import OTHER_CURRENCY, is_currency
from breaker.rule_table import RULE_TABLE
from breaker.rules import Outcome, Rules, Verdict
from configuration.breakers import limits_from
from configuration.rules import RuleSettings
from configuration.settings import Settings
from sandbox.embedded_redis import EmbeddedRedis
from tasks.checks.equity import texts
from tasks.checks.probe import redis_reader
from tasks.monitor.measurements import measurements_key, read_measurement

_FIGURES = ("equity", "largest_position", "gross_exposure", "maintenance_margin")
_IN_MEMORY = {"appendonly": "no", "save": ""}
_MOST_PARTS = 1_000
_PAGE = 2_000
_OF_EQUITY = (Rule.DRAWDOWN, Rule.DAILY_LOSS, Rule.LOSS_VELOCITY)
_OF_POSITIONS = (Rule.POSITION_SIZE, Rule.GROSS_EXPOSURE)
REPLAYED = (*_OF_EQUITY, *_OF_POSITIONS, Rule.MARGIN)
"""The rules that the recording has measurements for."""
_RULES_AT_ONCE = len(REPLAYED)


class ReplayStopped(BreakerError):
    """It took longer than whoever asked has time for. Nothing was acted on."""


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
class Measured:
    """What one rule heard at one reading."""

    at: datetime
    value: Decimal
    """A fraction, or an amount in the account's currency, as the rule's limit is."""
    trips: bool
    """It went beyond the limit then, after it had been within it."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded of one account, oldest first."""

    readings: tuple[Recorded, ...]
    transfers: tuple[Transferred, ...] = ()


async def read_recording(
    settings: Settings, account: str, scope: str, since: datetime, until: datetime, most: int | None = None
) -> Recording:
    """What the monitor has kept of the account, and what was moved by what the scope's rules were told.

    Raises BreakerUnavailable or RedisRefused, and ReplayStopped for more than `most` readings.
    """
    stream, moved = measurements_key(account), Keys.of(scope).key("transfers")
    begin, end = (str(int(moment.timestamp() * 1_000)) for moment in (since, until))
    entries: list[Any] = []
    async with redis_reader(settings) as redis:
        (transfers,) = await redis.ask(f"read {moved}", ("HGETALL", moved))
        while True:
            (page,) = await redis.ask(f"read {stream}", ("XRANGE", stream, begin, end, "COUNT", _PAGE))
            entries += page
            if most is not None and len(entries) > most:
                raise ReplayStopped(f"There are more than {most:,} readings from then to then; choose a shorter time.")
            if len(page) < _PAGE:
                break
            begin = f"({page[-1][0].decode()}"
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
    with _private_rules(replace(limits, dry_run=frozenset(Rule))) as rules:
        return list(_crossings(rules, recording))


def replay_rule(recording: Recording, limits: Limits, rule: Rule, go_on: Callable[[], bool]) -> list[Measured]:
    """What one rule of `REPLAYED` would have heard by its limit of `limits`, in order.

    Raises EmbeddedRedisError, and ReplayStopped as soon as `go_on` says no.
    """
    others: dict[str, Any] = {RULE_TABLE[other].setting: None for other in REPLAYED if other is not rule}
    alone = replace(limits, **others, dry_run=frozenset(Rule))
    found: list[Measured] = []
    was_beyond = False
    with _private_rules(alone) as rules:
        for event in _in_order(recording):
            if not go_on():
                raise ReplayStopped("It took too long, and was given up; choose a shorter time.")
            if isinstance(event, Transferred):
                rules.record_transfer(event.amount, event.at, event.transfer_id)
                continue
            outcome = _heard(rules, rule, event)
            if outcome is None or outcome.verdict is Verdict.REFUSED:
                continue
            is_beyond = outcome.verdict is Verdict.WOULD_TRIP
            found.append(Measured(event.at, _value(outcome.details["measured"]), is_beyond and not was_beyond))
            was_beyond = is_beyond
    return found


def limits_with(settings: Settings, scope: str, changes: Mapping[str, str], called: str) -> Limits:
    """The limits of the scope with some of them changed; one that is given is on.

    Raises InvalidInput for what is none; `called` is how whoever gave it knows it.
    """
    given = settings.rules.get(scope) or settings.rules.get(GLOBAL) or RuleSettings()
    on = tuple(rule for rule in given.off if RULE_TABLE[rule].setting not in changes)
    try:
        changed = RuleSettings.model_validate({**given.model_dump(), "off": on, **changes})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"{called} {where}: {first['msg']}; nothing was replayed") from None
    return limits_from(settings.model_copy(update={"rules": {**settings.rules, scope: changed}}), scope)


@contextmanager
def _private_rules(limits: Limits) -> Iterator[Rules]:
    """Rules on a Redis of their own. Raises EmbeddedRedisError."""
    with tempfile.TemporaryDirectory(prefix="breaker-replay-") as folder:
        server = EmbeddedRedis(Path(folder), config=_IN_MEMORY).start()
        try:
            with Redis.from_url(server.url) as client:
                rules = Rules(client, limits=limits)
                try:
                    yield rules
                finally:
                    rules.close()
        finally:
            server.stop()


def _crossings(rules: Rules, recording: Recording) -> Iterator[WouldTrip]:
    told: set[tuple[str, str]] = set()
    for event in _in_order(recording):
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


def _in_order(recording: Recording) -> list[Recorded | Transferred]:
    return sorted((*recording.transfers, *recording.readings), key=lambda each: each.at)


def _measured(rules: Rules, event: Recorded) -> Iterator[Outcome]:
    for rule in (Rule.DRAWDOWN, Rule.POSITION_SIZE, Rule.MARGIN):  # one of each kind
        outcome = _heard(rules, rule, event)
        if outcome is not None:
            yield outcome


def _heard(rules: Rules, rule: Rule, event: Recorded) -> Outcome | None:
    """What came of telling the figures that this rule judges; None where the reading has them not."""
    if rule in _OF_EQUITY:
        outcome = rules.record_equity(event.equity, event.at, trusted=event.trusted, currency=event.currency)
        if outcome.details.get("kind") == OTHER_CURRENCY:
            rules.rebase_equity()
        return outcome
    if rule in _OF_POSITIONS:
        if event.gross_exposure is None or event.largest_position is None:
            return None
        return rules.record_positions(_positions(event.largest_position, event.gross_exposure))
    if event.maintenance_margin is None:
        return None
    return rules.record_margin(event.maintenance_margin, event.equity)


def _value(measured: str) -> Decimal:
    """As the rule's limit is; nothing of an account that is not funded."""
    if measured.endswith("%"):
        return Decimal(measured[:-1]) / 100
    try:
        return Decimal(measured)
    except InvalidOperation:
        return Decimal(0)


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
        figures = {name: Decimal(fields[name]) for name in _FIGURES if name in fields}
        # Of equity the rules themselves refuse, and count, what is no amount.
        known = {name: value for name, value in figures.items() if value.is_finite() or name == "equity"}
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
