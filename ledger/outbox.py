"""Move a breaker's transitions from its outbox, a Redis stream, into the ledger.

Every drain reads the stream from its oldest entry, appends, and only then deletes. Drains may run at once, and may be
killed anywhere: the ledger knows an event by its id, and none can be recorded before an older one, which a consumer
group, with its entries pending at dead consumers, could not promise. That order is what detection relies on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from breaker.deadline_client import DeadlineClient
from breaker.errors import BreakerError, RedisRefused
from breaker.events import TransitionEvent
from breaker.keys import GLOBAL, Keys, is_scope
from breaker.requests import Command, Request
from ledger.continuity import StateAfter, gap_before, transition_record
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.models import STATE_ACTIONS
from ledger.record import AuditRecord, derived_id
from ledger.tail import Tail

if TYPE_CHECKING:
    from redis import Redis

UNREADABLE = "OUTBOX_ENTRY_UNREADABLE"
"""Recorded for an entry of the stream that no transition wrote."""

_BATCH = 500


class OutboxUnreadable(LedgerError):
    """The outbox's key holds something else than a stream."""


@dataclass(frozen=True, slots=True)
class OutboxDrain:
    """`moved` transitions are in the ledger now, `known` were there already, `unreadable` entries were recorded as
    such, and `overrides` are states found between transitions that none of them explains.
    """

    moved: int = 0
    known: int = 0
    unreadable: int = 0
    overrides: int = 0

    def __add__(self, other: OutboxDrain) -> OutboxDrain:
        return OutboxDrain(
            self.moved + other.moved,
            self.known + other.known,
            self.unreadable + other.unreadable,
            self.overrides + other.overrides,
        )


def drain_outbox(
    redis: Redis, ledger: Ledger, scopes: Iterable[str] = (GLOBAL,), *, timeout: float = 2.0
) -> OutboxDrain:
    """Move everything in the outboxes of `scopes` into the ledger. Each exchange with Redis ends within `timeout` s.

    Raises:
        BreakerUnavailable, RedisRefused: Redis didn't answer or won't. What was not moved stays in the outbox.
        LedgerUnavailable, LedgerNotReady: the same of the ledger.
        OutboxUnreadable: somebody put something else in the outbox's place.
    """
    with closing(DeadlineClient(redis, timeout)) as client:
        newest = _newest_entries(client, scopes := tuple(scopes))
        return sum((_drain_scope(client, ledger, scope, newest) for scope in scopes), OutboxDrain())


def drain_outboxes(
    redis: Redis, ledger: Ledger, scopes: Iterable[str], *, timeout: float = 2.0
) -> tuple[OutboxDrain, list[BreakerError | LedgerError]]:
    """The same, but what fails for one breaker is handed back, and stops none of the others."""
    total, problems = OutboxDrain(), list[BreakerError | LedgerError]()
    with closing(DeadlineClient(redis, timeout)) as client:
        try:
            newest = _newest_entries(client, scopes := tuple(scopes))
        except BreakerError as error:
            return total, [error]
        for scope in scopes:
            try:
                total += _drain_scope(client, ledger, scope, newest)
            except (LedgerError, BreakerError) as error:
                problems.append(error)
    return total, problems


def known_scopes(redis: Redis, ledger: Ledger, *, timeout: float = 2.0) -> tuple[str, ...]:
    """Every scope that has an outbox in Redis or a recorded state in the ledger, `global` always."""
    prefix = Keys.of(GLOBAL).outbox
    found = {GLOBAL, *ledger.scopes()}
    client = DeadlineClient(redis, timeout)
    cursor = b"0"
    try:
        while True:
            scan = ("SCAN", cursor, "MATCH", f"{prefix}:*", "COUNT", 1_000, "TYPE", "stream")
            cursor, keys = client.execute(Request("look for outboxes", (scan,)))[0]
            found.update(key.decode("utf-8", "replace").removeprefix(f"{prefix}:") for key in keys)
            if cursor == b"0":
                return tuple(sorted(found))
    finally:
        client.close()


def _newest_entries(client: DeadlineClient, scopes: Sequence[str]) -> dict[str, Any]:
    """What Redis answers of each outbox's last entry, in one exchange; of none if it refuses any of that.

    What is added meanwhile is left to the next drain, or this one might never end.
    """
    named = [scope for scope in scopes if is_scope(scope)]
    commands = tuple(_newest_entry(Keys.of(scope).outbox) for scope in named)
    try:
        replies = client.execute(Request("look what waits in the outboxes", commands))
    except RedisRefused:
        return {}
    return dict(zip(named, replies, strict=True))


def _newest_entry(key: str) -> Command:
    return ("XREVRANGE", key, "+", "-", "COUNT", 1)


def _drain_scope(client: DeadlineClient, ledger: Ledger, scope: str, newest: Mapping[str, Any]) -> OutboxDrain:
    key = Keys.of(scope).outbox
    total = OutboxDrain()
    found = _entries(key, newest[scope]) if scope in newest else _read(client, key, _newest_entry(key))
    last = found[0][0] if found else None
    while last is not None:
        entries = _read(client, key, ("XRANGE", key, "-", last, "COUNT", _BATCH))
        if not entries:
            break
        records = [_record(key, scope, *entry) for entry in entries]
        total += record_transitions(ledger, scope, records)
        client.execute(
            Request(f"delete recorded entries of {key}", (("XDEL", key, *(entry_id for entry_id, _ in entries)),))
        )
    return total


def record_transitions(ledger: Ledger, scope: str, records: Sequence[AuditRecord]) -> OutboxDrain:
    """Append transitions of one breaker in their order, each behind the override that it reveals, if it does."""
    records = with_distinct_ids(ledger, records)
    done = ledger.append_decided(lambda tail: _with_gaps(tail, scope, records))
    ids = {record.id for record in records}
    unreadable = {record.id for record in records if record.action == UNREADABLE}
    new = set(done.new)
    known = len(ids) - len(new & ids)
    return OutboxDrain(len(new & ids - unreadable), known, len(new & unreadable), len(new - ids))


def with_distinct_ids(ledger: Ledger, records: Sequence[AuditRecord]) -> list[AuditRecord]:
    """The records, under ids of their own where theirs is already another transition's.

    Redis knows an event's id again for a while and within one breaker only. Whoever gives an old id to another
    breaker's transition, or to a later one, must not by that keep it off the record.
    """
    taken = ledger.transitions(record.id for record in records)
    apart = []
    for record in records:
        this = (record.scope, record.details.get("epoch"))
        if record.action in STATE_ACTIONS and taken.setdefault(record.id, this) != this:
            record = replace(record, id=derived_id("REUSED", record.id, record.scope, str(this[1])))  # noqa: PLW2901
        apart.append(record)
    return apart


def _with_gaps(tail: Tail, scope: str, records: Sequence[AuditRecord]) -> list[AuditRecord]:
    known = tail.known(record.id for record in records)
    row = tail.last_state_row(scope)
    last = None if row is None else StateAfter.of(row)
    woven: list[AuditRecord] = []
    for record in records:
        if record.id in known:
            continue
        if record.action in STATE_ACTIONS:
            gap = gap_before(last, record)
            woven += [record] if gap is None else [gap, record]
            last = StateAfter.of(record)
        else:
            woven.append(record)
    return woven


def _read(client: DeadlineClient, key: str, command: Command) -> list[tuple[bytes, list[bytes]]]:
    return _entries(key, client.execute(Request(f"read {key}", (command,)))[0])


def _entries(key: str, reply: Any) -> list[tuple[bytes, list[bytes]]]:
    if isinstance(reply, ResponseError):
        raise OutboxUnreadable(f"{key} is not a stream, so its transitions can't be moved: rename it, and look at it")
    return [(entry_id, list(fields or ())) for entry_id, fields in reply]


def _record(key: str, scope: str, entry_id: bytes, fields: list[bytes]) -> AuditRecord:
    try:
        event = TransitionEvent.from_json(fields[fields.index(b"event") + 1])
        record = transition_record(event)
    except (ValueError, IndexError, RecursionError) as error:
        return _unreadable(key, scope, entry_id, fields, str(error))
    if event.scope != scope:
        return _unreadable(key, scope, entry_id, fields, f"an event of {event.scope:.80} among those of {scope}")
    return record


def _unreadable(key: str, scope: str, entry_id: bytes, fields: list[bytes], problem: str) -> AuditRecord:
    text: list[Any] = [field.decode("utf-8", "replace") for field in fields]
    entry = entry_id.decode()
    return AuditRecord(
        id=derived_id(UNREADABLE, key, entry, *text),
        action=UNREADABLE,
        source="override",
        scope=scope,
        timestamp=datetime.fromtimestamp(min(int(entry.split("-")[0]), 253_402_300_799_000) / 1000, UTC),
        details={"key": key, "entry": entry, "fields": text, "problem": problem},
        outcome="UNREADABLE",
    )
