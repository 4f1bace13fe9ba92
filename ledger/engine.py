"""Open the ledger's database, limit each exchange with it in time, and say its failures in one line.

Each exchange is limited by the server where it lives, and by `ledger.deadline` where it doesn't.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import Iterator
from typing import Any

from pydantic import SecretStr
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ledger.deadline import deadlines
from ledger.errors import LedgerError, LedgerNotReady, LedgerUnavailable

_DIALECTS = ("postgresql", "sqlite")


def open_engine(url: str | SecretStr, timeout: float) -> Engine:
    """An engine for `url`, a SQLAlchemy URL of PostgreSQL or SQLite. Nothing is sent before its first use.

    Raises:
        LedgerError: the URL names no database that the ledger can live in.
    """
    parsed = _parse(url)
    return _sqlite(parsed, timeout) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed, timeout)


@contextlib.contextmanager
def time_limit(connection: Connection, seconds: float) -> Iterator[None]:
    """End an exchange with the server that takes longer; SQLite has no server that could hang."""
    connection_socket = connection.connection.info.get("socket")
    if connection_socket is None:
        yield
        return
    # The server's own limit comes first where there is a server, as its error says more.
    with deadlines.within(seconds + 0.5, connection_socket):
        yield


@contextlib.contextmanager
def autocommit(connection: Connection) -> Iterator[None]:
    """One statement, one transaction. SQLAlchemy's own way of saying so costs two more exchanges with the server."""
    driver: Any = connection.connection.driver_connection
    driver.autocommit = True
    try:
        yield
    finally:
        if not driver.closed:
            driver.autocommit = False


@contextlib.contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turn what SQLAlchemy raises into a `LedgerError` of one line, without credentials."""
    try:
        yield
    except SQLAlchemyError as error:
        raise _explain(error, url) from None


def _parse(url: str | SecretStr) -> URL:
    secret = url.get_secret_value() if isinstance(url, SecretStr) else url
    try:
        parsed = make_url(secret)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() not in _DIALECTS or not parsed.database:
        raise LedgerError(
            "the ledger's database URL is not usable: it should look like postgresql://user:password@host/database"
            " or sqlite:////path/to/audit.db; nothing was opened"
        )
    return parsed


def _sqlite(url: URL, timeout: float) -> Engine:
    engine = create_engine(url, hide_parameters=True, pool_timeout=timeout, connect_args={"timeout": timeout})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgresql(url: URL, timeout: float) -> Engine:
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
            f"{where} has no audit log of this version ({said}); nothing was written: run `breaker audit upgrade`"
        )
    if code == "42501":
        return LedgerError(
            f"{where} does not permit it ({said}); nothing was written: "
            "it needs the roles breaker_audit and breaker_console, or the owner has to run `breaker audit upgrade`"
        )
    return LedgerUnavailable(f"the ledger at {where} did not do it ({said}); check the database, then try again")
