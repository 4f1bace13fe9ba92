"""Keep in Redis, too, what waits in a host's spool: another host delivers it where the disk is lost.

Beside the disk, never before it: a thread of its own writes what the ledger has not taken within `SOON` seconds, within
Redis's own time limit, and keeps nobody from anything when Redis is away. Delivering is idempotent by event id, as a
spool's is, so that it does no harm where the host's own spool comes too.
"""

from __future__ import annotations

import atexit
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from breaker.deadline_client import DeadlineClient
from breaker.requests import Command, Request, raise_if_error
from configuration.redis_clients import redis_client
from ledger.errors import InvalidRecord
from ledger.location import configured_place, place_of
from ledger.record import AuditRecord, derived_id, iso
from ledger.spool import Spool

if TYPE_CHECKING:
    from redis import Redis

    from configuration.settings import Settings
    from ledger.ledger import Ledger

DELIVERED = "SPOOL_COPY_DELIVERED"
"""Recorded behind records that came from here: their host's own spool had not delivered them."""
SOON = 0.3
"""Seconds that the ledger gets to take a record before it is copied."""
RETRY_AFTER = 2.0
LEAVE_WITHIN = 1.0
"""Seconds for which a process that ends waits for Redis to take the rest."""
MOST = 50_000
"""Records that are kept, in Redis and on their way there; the oldest go first. A kill of 100 accounts makes 4,400."""
_BATCH = 500


def copy_key(place: str) -> str:
    """The stream of what waits for the ledger at `place`."""
    return f"circuit_breaker:spool:{place}"


def spool_of(settings: Settings) -> Spool:
    """This host's spool, with its copy in Redis. Opens neither."""
    return Spool(settings.state_dir / "spool", SpoolCopy(settings))


class SpoolCopy:
    """The copy of one process's records. Safe to use from several threads; none of its methods raises.

    Its thread lives while there is something to write.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._host = socket.gethostname()
        self._lock = threading.Lock()
        self._waiting: dict[str, AuditRecord] = {}
        self._entries: dict[str, bytes] = {}
        """By event id, where in the stream it is."""
        self._delivered: set[str] = set()
        """In the stream, and in the ledger by now."""
        self._hurry = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._failing = False
        self._thread: threading.Thread | None = None

    def offer(self, records: Iterable[AuditRecord]) -> None:
        """These are on the disk now."""
        with self._lock:
            self._waiting |= {record.id: record for record in records}
            while len(self._waiting) > MOST:
                del self._waiting[next(iter(self._waiting))]
            self._begin()

    def withdraw(self, ids: Iterable[str]) -> None:
        """The ledger has these now."""
        with self._lock:
            for record_id in ids:
                self._waiting.pop(record_id, None)
                if record_id in self._entries:
                    self._delivered.add(record_id)
            if self._delivered:
                self._begin()

    def finish(self, within: float = LEAVE_WITHIN) -> None:
        """Give Redis up to so many seconds to take the rest; none where it failed just now."""
        if not self._failing:
            self._hurry.set()
            self._idle.wait(within)

    def _begin(self) -> None:
        """With the lock held."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = threading.Thread(target=self._run, name="copy of the spool", daemon=True)
        self._idle.clear()
        try:
            self._thread.start()
            atexit.register(self.finish)
        except RuntimeError:  # the interpreter is on its way out: the disk has them
            self._idle.set()

    def _run(self) -> None:
        client, key = None, ""
        while True:
            self._hurry.wait(SOON)
            try:
                if client is None and not self._nothing_to_do():
                    client, key = self._open()
                if client is not None:
                    self._write(client, key)
                    self._clean(client, key)
                self._failing = False
            except Exception:  # this is beside the disk: that Redis is away is said by whoever needs it
                self._failing = True
                time.sleep(RETRY_AFTER)
            with self._lock:
                if self._nothing_to_do():
                    self._thread = None
                    self._hurry.clear()
                    self._idle.set()
                    break
        atexit.unregister(self.finish)
        if client is not None:
            client.close()

    def _open(self) -> tuple[DeadlineClient, str]:
        client = DeadlineClient(redis_client(self._settings), self._settings.redis_timeout)
        return client, copy_key(configured_place(self._settings))

    def _nothing_to_do(self) -> bool:
        return not self._waiting and not self._delivered

    def _write(self, client: DeadlineClient, key: str) -> None:
        while True:
            with self._lock:
                batch = list(self._waiting.values())[:_BATCH]
            if not batch:
                return
            added = _ask(client, f"copy the spool to {key}", *(_added(key, self._host, record) for record in batch))
            with self._lock:
                for record, entry in zip(batch, added, strict=True):
                    self._entries[record.id] = entry
                    if self._waiting.pop(record.id, None) is None:  # withdrawn meanwhile
                        self._delivered.add(record.id)
                while len(self._entries) > MOST:
                    del self._entries[next(iter(self._entries))]

    def _clean(self, client: DeadlineClient, key: str) -> None:
        with self._lock:
            entries = {record_id: self._entries[record_id] for record_id in self._delivered & self._entries.keys()}
        if entries:
            _ask(client, f"take what the ledger has out of {key}", ("XDEL", key, *entries.values()))
        with self._lock:
            self._delivered -= entries.keys()
            self._delivered &= self._entries.keys()
            for record_id in entries:
                self._entries.pop(record_id, None)


@dataclass(frozen=True, slots=True)
class CopyDrain:
    """`moved` records are in the ledger now, by the host whose spool had not delivered them; `known` were there."""

    moved: Mapping[str, int] = field(default_factory=dict)
    known: int = 0
    unreadable: int = 0


def drain_copy(redis: Redis, ledger: Ledger, *, timeout: float = 2.0) -> CopyDrain:
    """Move what is in Redis for this ledger into it, oldest first, and trim what the ledger has.

    Raises:
        BreakerUnavailable, RedisRefused: Redis didn't answer or won't. What was not moved stays there.
        LedgerUnavailable, LedgerNotReady: the same of the ledger.
    """
    key = copy_key(place_of(ledger))
    moved, known, unreadable = Counter[str](), 0, 0
    with closing(DeadlineClient(redis, timeout)) as client:
        (newest,) = _ask(client, f"read {key}", ("XREVRANGE", key, "+", "-", "COUNT", 1))
        while newest:
            (entries,) = _ask(client, f"read {key}", ("XRANGE", key, "-", newest[0][0], "COUNT", _BATCH))
            if not entries:
                break
            read = [found for _, fields in entries if (found := _read(fields)) is not None]
            new = _deliver(ledger, read)
            moved.update(host for host, record in read if record.id in new)
            known += len(read) - len(new)
            unreadable += len(entries) - len(read)
            _ask(client, f"take what the ledger has out of {key}", ("XDEL", key, *(entry for entry, _ in entries)))
    return CopyDrain(dict(moved), known, unreadable)


def _deliver(ledger: Ledger, read: Sequence[tuple[str, AuditRecord]]) -> frozenset[str]:
    """The ids of those that are new in the ledger, which says of them that they came from here."""
    records = {record.id: record for _, record in read}
    hosts = {record.id: host for host, record in read}

    def decide(known: frozenset[str]) -> list[AuditRecord]:
        new = [record for record in records.values() if record.id not in known]
        return [*new, _told(new, [hosts[record.id] for record in new])] if new else []

    done = ledger.append_decided(lambda tail: decide(tail.known(records)))
    return frozenset(done.new) & records.keys()


def _told(new: Sequence[AuditRecord], hosts: Sequence[str]) -> AuditRecord:
    times = sorted(record.timestamp for record in new)
    details = {"records": len(new), "hosts": dict(Counter(hosts)), "from": iso(times[0]), "to": iso(times[-1])}
    identity = derived_id(DELIVERED, *sorted(record.id for record in new))
    return AuditRecord(id=identity, action=DELIVERED, source="spool", details=details)


def _read(fields: Sequence[bytes] | None) -> tuple[str, AuditRecord] | None:
    """Host and record; None for what nobody here has written, which is no loss of ours."""
    found = dict(zip((fields or [])[::2], (fields or [])[1::2], strict=False))
    try:
        record = AuditRecord.from_json(found[b"record"].decode("utf-8", "replace"))
    except (KeyError, InvalidRecord):
        return None
    return found.get(b"host", b"?").decode("utf-8", "replace")[:200], record


def _added(key: str, host: str, record: AuditRecord) -> Command:
    return ("XADD", key, "MAXLEN", "~", MOST, "*", "host", host, "record", record.to_json())


def _ask(client: DeadlineClient, doing: str, *commands: Command) -> Sequence[Any]:
    replies = client.execute(Request(doing, commands))
    for reply in replies:
        raise_if_error(reply)
    return replies
