"""The audit log itself: appending to the chain, and reading from it.

Appends are serialised in the database, by an advisory lock on PostgreSQL and by `BEGIN IMMEDIATE` on SQLite, so that
writers on any number of hosts extend one chain. Every exchange is limited in time, by the server where it lives and by
`ledger.deadline` where it doesn't.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self, TypeVar

from pydantic import SecretStr
from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    and_,
    create_engine,
    event,
    insert,
    literal,
    make_url,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError

from ledger.deadline import deadlines
from ledger.errors import InvalidRecord, LedgerError, LedgerNotReady, LedgerUnavailable
from ledger.models import IS_STATE, OVERRIDE_DETECTED, TRANSITION_ACTIONS, UtcTime, audit_log, raw_columns
from ledger.record import COLUMNS, GENESIS, AuditRecord, AuditRow, RawRow, chain, key_bytes

T = TypeVar("T")

_APPEND_LOCK = 0x6272_6561_6B65_7221
"""The advisory lock of appends; any number will do that nothing else in the database uses."""

_HEAD = "ledger head"

LATE = "LATE"
"""Outcome of a transition recorded after later ones, found in the breaker's history; it says nothing of the present."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which rows to list. What is None, or empty, does not restrict. `since` is inclusive, `until` is not."""

    actions: Sequence[str] = ()
    user_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    incident_id: str | None = None
    scope: str | None = None
    source: str | None = None
    outcome: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        columns = audit_log.c
        named = {name: getattr(self, name) for name in ("user_id", "incident_id", "scope", "source", "outcome")}
        found = [columns[name] == wanted for name, wanted in named.items() if wanted is not None]
        if self.actions:
            found.append(columns.action.in_(self.actions))
        if self.since is not None:
            found.append(columns.timestamp >= self.since)
        if self.until is not None:
            found.append(columns.timestamp < self.until)
        return found


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, newest first, and what to pass as `after` for the ones that follow; None when these were the last."""

    rows: tuple[AuditRow, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class LastWord:
    """What the ledger says of one breaker: the row that says its state, and the trip that no reset has followed."""

    row: AuditRow | None
    standing_trip: AuditRow | None


class Tail:
    """The end of the chain while nobody else can append to it."""

    def __init__(self, connection: Connection, dialect: str) -> None:
        self._connection = connection
        self._columns = raw_columns(dialect)

    def known(self, ids: Iterable[str]) -> frozenset[str]:
        """Those of `ids` that the ledger has."""
        return frozenset(self._connection.scalars(select(audit_log.c.id).where(audit_log.c.id.in_(list(ids)))))

    def transitions(self, ids: Iterable[str]) -> dict[str, tuple[str, int | None]]:
        """Scope and epoch of those of `ids` that the ledger has."""
        columns = audit_log.c
        wanted = select(columns.id, columns.scope, columns.details).where(columns.id.in_(list(ids)))
        return {row.id: (row.scope, _epoch(row.details)) for row in self._connection.execute(wanted)}

    def last_word(self, scope: str) -> AuditRow | None:
        """The last row that says what state the breaker of `scope` is in."""
        return self._newest(scope)

    def state_of(self, scope: str) -> LastWord:
        """The last word on the breaker of `scope`, and whether its last trip stands."""
        columns = audit_log.c
        tripped_by_hand = and_(columns.action == OVERRIDE_DETECTED, columns.outcome == "TRIPPED")
        decisive = or_(columns.action.in_((TRANSITION_ACTIONS["TRIP"], TRANSITION_ACTIONS["RESET"])), tripped_by_hand)
        decision = self._newest(scope, decisive)
        standing = None if decision is None or decision.action == TRANSITION_ACTIONS["RESET"] else decision
        return LastWord(self.last_word(scope), standing)

    def _newest(self, scope: str, *conditions: ColumnElement[bool]) -> AuditRow | None:
        columns = audit_log.c
        found = self._connection.execute(
            select(*self._columns)
            .where(IS_STATE, columns.scope == scope, columns.outcome != LATE, *conditions)
            .order_by(columns.seq.desc())
            .limit(1)
        ).first()
        return None if found is None else AuditRow.from_raw(found)


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
        return cls(_engine(_parse(url), timeout), key=key, timeout=timeout)

    def __repr__(self) -> str:
        return f"Ledger({self.engine.url.render_as_string(hide_password=True)})"

    def close(self) -> None:
        self.engine.dispose()

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

    def state_of(self, scope: str = "global") -> LastWord:
        """The last word on the breaker of `scope`, and whether its last trip stands."""
        return self._read(lambda connection: Tail(connection, self.engine.dialect.name).state_of(scope))

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
            moment, seq = _parse_cursor(after)
            rows = rows.where(tuple_(columns.timestamp, columns.seq) < tuple_(literal(moment, UtcTime()), literal(seq)))
        rows = rows.order_by(columns.timestamp.desc(), columns.seq.desc()).limit(limit + 1)
        found = [AuditRow.from_raw(row) for row in self._read(lambda connection: connection.execute(rows).all())]
        more = len(found) > limit
        last = found[limit - 1] if more else None
        return Page(tuple(found[:limit]), None if last is None else f"{last.timestamp.isoformat()}~{last.seq}")

    def stream(self, after_seq: int = 0, batch: int = 2_000) -> Generator[Sequence[RawRow], None, None]:
        """Every row behind `after_seq` in the chain's order, in batches, as one consistent reading of the table.

        Raises:
            LedgerUnavailable, LedgerNotReady: as `append` does, at any batch.
        """
        rows = select(*self._columns).order_by(audit_log.c.seq, audit_log.c.id)
        # Rows that claim a place before the first are read too, so that verification sees them.
        rows = rows.where(audit_log.c.seq > after_seq) if after_seq else rows
        # Connections that died in the pool are found and replaced here, as a stream can't be begun again half-way.
        self.head()
        with self.explained(), self.engine.connect() as connection, connection.begin():
            options = {"stream_results": True, "max_row_buffer": batch}
            with self._limited(connection):
                result = connection.execution_options(**options).execute(rows)
            while True:
                with self._limited(connection):
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
                with self.engine.connect() as connection, self._limited(connection):
                    head = connection.info.pop(_HEAD, None)
                    if head is None:
                        return None
                    row = self._chain([record], head)[0]
                    with _autocommit(connection):
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
            with self.engine.connect() as connection, self._limited(connection, limit), connection.begin():
                if limit is not None and self.engine.dialect.name == "postgresql":
                    connection.execute(text("SET LOCAL statement_timeout = :limit").bindparams(limit=int(limit * 1000)))
                return work(connection)

        return self._retried(once)

    def _write(self, work: Callable[[Connection], Appended]) -> Appended:
        def once() -> Appended:
            with self.engine.connect() as connection, self._limited(connection):
                with connection.execution_options(ledger_write=True).begin():
                    done = work(connection)
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

    @contextlib.contextmanager
    def _limited(self, connection: Connection, limit: float | None = None) -> Iterator[None]:
        connection_socket = connection.connection.info.get("socket")
        if connection_socket is None:
            yield
            return
        # The server's own limit comes first where there is a server, as its error says more.
        with deadlines.within((limit or self.timeout) + 0.5, connection_socket):
            yield

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise _explain(error, self.engine.url) from None


def _parse(url: str | SecretStr) -> URL:
    secret = url.get_secret_value() if isinstance(url, SecretStr) else url
    try:
        parsed = make_url(secret)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() not in _LOCKED_HEAD or not parsed.database:
        raise LedgerError(
            "the ledger's database URL is not usable: it should look like postgresql://user:password@host/database"
            " or sqlite:////path/to/audit.db; nothing was opened"
        )
    return parsed


def _engine(url: URL, timeout: float) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, hide_parameters=True, pool_timeout=timeout, connect_args={"timeout": timeout})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    limit = int(timeout * 1000)
    engine = create_engine(
        url.set(drivername="postgresql+psycopg2"),
        hide_parameters=True,
        pool_timeout=timeout,
        connect_args={
            "connect_timeout": max(2, math.ceil(timeout)),  # libpq takes whole seconds, and 1 for 2
            "tcp_user_timeout": limit,
            "application_name": "breaker-ledger",
            # The last one frees the lock of appends from a writer that was frozen while it held it.
            "options": f"-c statement_timeout={limit} -c lock_timeout={limit}"
            f" -c idle_in_transaction_session_timeout={max(limit, 5000)}",
        },
    )
    event.listen(engine, "connect", _keep_socket)
    event.listen(engine, "close", _close_socket)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so, not where the driver guesses
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


@contextlib.contextmanager
def _autocommit(connection: Connection) -> Iterator[None]:
    """One statement, one transaction. SQLAlchemy's own way of saying so costs two more exchanges with the server."""
    driver: Any = connection.connection.driver_connection
    driver.autocommit = True
    try:
        yield
    finally:
        if not driver.closed:
            driver.autocommit = False


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that will write takes its place in the queue at once, or it could fail half-way.
    write = connection.get_execution_options().get("ledger_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _keep_socket(connection: Any, record: Any) -> None:
    # A descriptor of our own can be shut at any time; the driver's number might by then be another file's.
    record.info["socket"] = socket.socket(fileno=os.dup(connection.fileno()))


def _close_socket(_: Any, record: Any) -> None:
    if (connection_socket := record.info.pop("socket", None)) is not None:
        connection_socket.close()


def _epoch(details: object) -> int | None:
    found = json.loads(details) if isinstance(details, str) else details
    epoch = found.get("epoch") if isinstance(found, dict) else None
    return epoch if isinstance(epoch, int) else None


def _parse_cursor(cursor: str) -> tuple[datetime, int]:
    moment, _, seq = cursor.partition("~")
    try:
        return datetime.fromisoformat(moment), int(seq)
    except ValueError:
        raise InvalidRecord(f"{cursor!r} is not the end of a page: pass `next` as a page gave it") from None


def _explain(error: SQLAlchemyError, url: URL) -> LedgerError:
    """The driver's complaint as one line, without credentials."""
    where = url.render_as_string(hide_password=True)
    original = getattr(error, "orig", None)
    lines = str(original or error).strip().splitlines() or [type(error).__name__]
    said = lines[0].strip()
    if url.password is not None:
        said = said.replace(str(url.password), "***")
    code = getattr(original, "pgcode", None)
    if code in ("42P01", "42703") or "no such table" in said or "no such column" in said:
        return LedgerNotReady(
            f"{where} has no audit log of this version ({said}); nothing was written: run `python -m ledger upgrade`"
        )
    if code == "42501":
        return LedgerError(f"{where} does not permit it ({said}); nothing was written: grant the role breaker_audit")
    return LedgerUnavailable(f"the ledger at {where} did not do it ({said}); check the database, then try again")
