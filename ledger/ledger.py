"""Append to the chain of the audit log, and read from it.

Appends are serialised in the database, by an advisory lock on PostgreSQL and by `BEGIN IMMEDIATE` on SQLite, so that
writers on any number of hosts extend one chain. Every exchange is limited in time.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self, TypeVar

from pydantic import SecretStr
from sqlalchemy import Connection, Engine, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from ledger.engine import autocommit, explained, is_pooled, open_engine, time_limit
from ledger.errors import LedgerNotEmpty
from ledger.models import IS_STATE, audit_log, raw_columns
from ledger.queries import Filter, Page, rows_after
from ledger.record import COLUMNS, GENESIS, AuditRecord, AuditRow, RawRow, chain, key_bytes
from ledger.tail import RecordedState, Tail

T = TypeVar("T")

_APPEND_LOCK = 0x6272_6561_6B65_7221
"""The advisory lock of appends; any number will do that nothing else in the database uses."""

_HEAD = "ledger head"

# ruff: noqa: S608 - the statements are put together from constants.
# Each statement of a PostgreSQL query string has a snapshot of its own, so the head is read after the lock was granted.
_LOCKED_HEAD = {
    "postgresql": (
        f"SELECT pg_advisory_xact_lock({_APPEND_LOCK});"
        "(SELECT seq, hash, NULL AS known FROM audit_log ORDER BY seq DESC LIMIT 1)"
        " UNION ALL SELECT 0, '', id FROM audit_log WHERE id = ANY(%s)"
    ),
    "sqlite": (
        "SELECT * FROM (SELECT seq, hash, NULL AS known FROM audit_log ORDER BY seq DESC LIMIT 1)"
        " UNION ALL SELECT 0, '', id FROM audit_log WHERE id IN (SELECT value FROM json_each(?))"
    ),
}

# One exchange where the usual append needs four. It relies on the last row that this very connection wrote, and writes
# nothing if the chain has grown since or the ledger has the record already. Rows can't vanish under a living connection
# unless somebody cuts them off, and then the gap that this leaves is the proof of it.
_APPEND_TO_KNOWN_HEAD = (
    "INSERT INTO audit_log (seq, id, timestamp, recorded_at, action, user_id, details, ip_address, source, scope,"
    " incident_id, flow_run_id, outcome, prev_hash, hash)"
    " SELECT %s, %s, %s::timestamptz, %s::timestamptz, %s, %s, %s::json, %s, %s, %s, %s, %s, %s, %s, %s"
    f" WHERE pg_try_advisory_xact_lock({_APPEND_LOCK}) ON CONFLICT DO NOTHING"
)


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of the records of one call: ids that are new in the ledger, and ids that it had already."""

    new: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    head: tuple[int, str] | None = None
    """`seq` and hash of the last row that the call wrote; None if it wrote none."""


class Ledger:
    """The audit log in one database. Safe to use from several threads."""

    def __init__(self, engine: Engine, *, key: SecretStr | None, timeout: float) -> None:
        self.engine = engine
        self.timeout = timeout
        self.key = key
        self._key = key_bytes(key)
        self._columns = raw_columns(engine.dialect.name)

    @classmethod
    def connect(cls, url: str | SecretStr, *, key: SecretStr | None = None, timeout: float = 2.0) -> Self:
        """The ledger at `url`, a SQLAlchemy URL of PostgreSQL or SQLite. Nothing is sent before the first use.

        `key` makes the chain one of HMACs, which only its holders can extend or verify; it must be the same for a
        ledger's whole life. `timeout` limits each exchange with the database, in seconds.

        Raises:
            LedgerError: the URL names no database that the ledger can live in.
        """
        return cls(open_engine(url, timeout), key=key, timeout=timeout)

    def __repr__(self) -> str:
        return f"Ledger({self.engine.url.render_as_string(hide_password=True)})"

    def close(self) -> None:
        self.engine.dispose()

    def explained(self) -> AbstractContextManager[None]:
        """Raise what SQLAlchemy raises as a `LedgerError`."""
        return explained(self.engine.url)

    @contextlib.contextmanager
    def connection(self, limit: float | None = None) -> Iterator[Connection]:
        """A connection that is shut unless the block ends within `limit` seconds, or the ledger's `timeout`."""
        with self.engine.connect() as connection, time_limit(connection, limit or self.timeout):
            yield connection

    def append(self, records: Sequence[AuditRecord]) -> Appended:
        """Write `records` behind the last row, in their order and all or none; those it has already are left alone.

        Raises:
            LedgerUnavailable: the database can't take them now. They may have been written if the connection was lost
                during the commit; appending them again is safe.
            LedgerNotReady: the database has not been migrated.
        """
        if not records:
            return Appended()
        if len(records) == 1 and (done := self._append_at_once(records[0])) is not None:
            return done
        return self._write(lambda connection: self._append(connection, records))

    def append_decided(self, decide: Callable[[Tail], Sequence[AuditRecord]]) -> Appended:
        """Append what `decide` makes of the end of the chain, while nobody else can append.

        `decide` may be called again if the connection is lost, and must do nothing but read from the tail: others wait.
        Raises what `append` raises.
        """

        def work(connection: Connection) -> Appended:
            self._locked_head(connection, ())
            return self._append(connection, decide(Tail(connection, self.engine.dialect.name)))

        return self._write(work)

    def fill(self, batches: Iterable[Sequence[RawRow]]) -> int:
        """Write rows as they once were, places and hashes included, into a ledger that has none; returns how many.

        All or none, while nobody else can append. That they are a whole chain is for the caller to verify first.

        Raises:
            LedgerNotEmpty: it has rows; nothing was written.
            LedgerUnavailable, LedgerNotReady: as `append` does.
        """
        written = 0
        with (
            self.explained(),
            self.engine.connect() as connection,
            connection.execution_options(ledger_write=True).begin(),
        ):
            with time_limit(connection, self.timeout):
                head, _ = self._locked_head(connection, ())
            if head[0] != 0:
                raise LedgerNotEmpty(f"{self} has {head[0]} rows already; nothing was written: name an empty one")
            for batch in batches:
                with time_limit(connection, self.timeout):
                    connection.execute(insert(audit_log), [dict(zip(COLUMNS, row, strict=True)) for row in batch])
                written += len(batch)
        return written

    def row_at(self, seq: int) -> RawRow | None:
        """The row of that number as it is hashed, or None."""
        rows = select(*self._columns).where(audit_log.c.seq == seq)

        def work(connection: Connection) -> RawRow | None:
            found = connection.execute(rows).first()
            return None if found is None else tuple(found)

        return self._read(work)

    def head(self) -> tuple[int, str]:
        """`seq` and hash of the last row; of an empty ledger, 0 and the hash that the first row will follow."""

        def work(connection: Connection) -> tuple[int, str]:
            columns = audit_log.c
            found = connection.execute(select(columns.seq, columns.hash).order_by(columns.seq.desc()).limit(1)).first()
            return (0, GENESIS) if found is None else (found.seq, found.hash)

        return self._read(work)

    def find(self, record_id: str) -> AuditRow | None:
        """The row of an event, or None if the ledger doesn't have it."""

        def work(connection: Connection) -> AuditRow | None:
            found = connection.execute(select(*self._columns).where(audit_log.c.id == record_id)).first()
            return None if found is None else AuditRow.from_raw(found)

        return self._read(work)

    def state_of(self, scope: str = "global") -> RecordedState:
        """The last word on the breaker of `scope`, and whether its last trip stands."""
        return self._read(lambda connection: Tail(connection, self.engine.dialect.name).state_of(scope))

    def states_of(self, scopes: Sequence[str]) -> dict[str, RecordedState]:
        """`state_of` for each of them, all at one moment."""
        return self._read(lambda connection: Tail(connection, self.engine.dialect.name).states_of(scopes))

    def newest_of_each(self, scopes: Sequence[str], action: str) -> dict[str, AuditRow | None]:
        """Of each scope the newest row of that action, by when it happened: one of those that say a state."""
        return self._read(lambda connection: Tail(connection, self.engine.dialect.name).newest_of_each(scopes, action))

    def newest(self, scope: str, actions: Sequence[str]) -> AuditRow | None:
        """The last row of one of these actions, of those that say a breaker's state; none that was recorded late."""
        return self._read(lambda connection: Tail(connection, self.engine.dialect.name).newest(scope, actions))

    def known(self, ids: Iterable[str]) -> frozenset[str]:
        """Those of `ids` that the ledger has."""
        return self._read(lambda connection: Tail(connection, self.engine.dialect.name).known(ids))

    def transitions(self, ids: Iterable[str]) -> dict[str, tuple[str, int | None]]:
        """Scope and epoch of those of `ids` that the ledger has."""
        return self._read(lambda connection: Tail(connection, self.engine.dialect.name).transitions(ids))

    def scopes(self) -> tuple[str, ...]:
        """Every scope that has a recorded state."""
        columns = audit_log.c
        wanted = select(columns.scope).where(IS_STATE).distinct().order_by(columns.scope)
        return self._read(lambda connection: tuple(connection.scalars(wanted)))

    def query(self, wanted: Filter | None = None, *, limit: int = 50, after: str | None = None) -> Page:
        """A page of rows, newest first by when they happened; `after` is the `next` of the page before.

        Raises:
            InvalidRecord: `after` is not what a page said.
        """
        columns = audit_log.c
        rows = select(*self._columns).where(*(wanted or Filter()).conditions())
        if after is not None:
            rows = rows.where(rows_after(after))
        rows = rows.order_by(columns.timestamp.desc(), columns.seq.desc()).limit(limit + 1)
        found = [AuditRow.from_raw(row) for row in self._read(lambda connection: connection.execute(rows).all())]
        return Page.of(found, limit)

    def stream(
        self, after_seq: int = 0, batch: int = 2_000, *, part: Filter | None = None
    ) -> Generator[Sequence[RawRow], None, None]:
        """Every row behind `after_seq` in the chain's order, in batches, as one consistent reading of the table.

        With `part` only the rows that it names.

        Raises:
            LedgerUnavailable, LedgerNotReady: as `append` does, at any batch.
        """
        rows = select(*self._columns).order_by(audit_log.c.seq, audit_log.c.id)
        # Rows that claim a place before the first are read too, so that verification sees them.
        rows = rows.where(audit_log.c.seq > after_seq) if after_seq else rows
        rows = rows.where(*part.conditions()) if part is not None else rows
        # Connections that died in the pool are found and replaced here, as a stream can't be begun again half-way.
        self.head()
        with self.explained(), self.engine.connect() as connection, connection.begin():
            options = {"stream_results": True, "max_row_buffer": batch}
            with time_limit(connection, self.timeout):
                result = connection.execution_options(**options).execute(rows)
            while True:
                with time_limit(connection, self.timeout):
                    found = result.fetchmany(batch)
                if not found:
                    return
                yield found  # type: ignore[misc]  # a Row is a tuple to everyone but the type checker

    def rows_behind(self, hash_before: str, limit: int = 10) -> list[RawRow]:
        """Rows that say they follow the row with this hash; the whole table is read for them."""
        rows = select(*self._columns).where(audit_log.c.prev_hash == hash_before).order_by(audit_log.c.seq).limit(limit)

        def work(connection: Connection) -> list[RawRow]:
            return [tuple(row) for row in connection.execute(rows)]

        return self._read(work, limit=60.0)

    def _append_at_once(self, record: AuditRecord) -> Appended | None:
        """Append one record in one exchange, if this can be; None if nothing was written or the connection was lost."""
        if self.engine.dialect.name != "postgresql":
            return None
        begun = time.monotonic()
        with self.explained():
            try:
                with self.connection() as connection:
                    head = connection.info.pop(_HEAD, None)
                    if head is None:
                        return None
                    row = self._chain([record], head)[0]
                    with autocommit(connection):
                        if connection.exec_driver_sql(_APPEND_TO_KNOWN_HEAD, row).rowcount == 0:
                            return None
                    connection.info[_HEAD] = (row[0], row[-1])
                    return Appended((record.id,), (), (row[0], row[-1]))
            except DBAPIError as error:
                if not self._was_dead_already(error, begun):
                    raise
                return None

    def _chain(self, records: Sequence[AuditRecord], head: tuple[int, str]) -> list[RawRow]:
        return chain(records, after_seq=head[0], after_hash=head[1], recorded_at=datetime.now(UTC), key=self._key)

    def _append(self, connection: Connection, records: Sequence[AuditRecord]) -> Appended:
        unique = {record.id: record for record in records}
        if not unique:
            return Appended()
        head, known = self._locked_head(connection, list(unique))
        new = [record for record in unique.values() if record.id not in known]
        if not new:
            return Appended(known=tuple(known))
        rows = self._chain(new, head)
        connection.execute(insert(audit_log), [dict(zip(COLUMNS, row, strict=True)) for row in rows])
        return Appended(tuple(record.id for record in new), tuple(known), (rows[-1][0], rows[-1][-1]))

    def _locked_head(self, connection: Connection, ids: Sequence[str]) -> tuple[tuple[int, str], frozenset[str]]:
        dialect = self.engine.dialect.name
        wanted: Any = list(ids) if dialect == "postgresql" else json.dumps(list(ids))
        found = connection.exec_driver_sql(_LOCKED_HEAD[dialect], (wanted,)).all()
        head = next(((row.seq, row.hash) for row in found if row.known is None), (0, GENESIS))
        return head, frozenset(row.known for row in found if row.known is not None)

    def _read(self, work: Callable[[Connection], T], *, limit: float | None = None) -> T:
        def once() -> T:
            with self.connection(limit) as connection, connection.begin():
                if limit is not None and self.engine.dialect.name == "postgresql":
                    connection.execute(text("SET LOCAL statement_timeout = :limit").bindparams(limit=int(limit * 1000)))
                return work(connection)

        return self._retried(once)

    def _write(self, work: Callable[[Connection], Appended]) -> Appended:
        def once() -> Appended:
            with self.connection() as connection:
                with connection.execution_options(ledger_write=True).begin():
                    done = work(connection)
                if not is_pooled(connection):  # behind it, the rows may be those of another server by the next time
                    connection.info[_HEAD] = done.head
                return done

        return self._retried(once)

    def _retried(self, once: Callable[[], T]) -> T:
        begun = time.monotonic()
        with self.explained():
            try:
                return once()
            except DBAPIError as error:
                # Also when somebody who did not take the lock has taken the place in the chain. Trying again is safe,
                # since records are known by their ids.
                if not (self._was_dead_already(error, begun) or isinstance(error, IntegrityError)):
                    raise
                return once()

    def _was_dead_already(self, error: DBAPIError, begun: float) -> bool:
        """Whether the connection died while it lay in the pool, rather than by being waited for."""
        return error.connection_invalidated and time.monotonic() - begun < self.timeout / 2
