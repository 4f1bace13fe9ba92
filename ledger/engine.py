"""Open the ledger's database, limit each exchange with it in time, and say its failures in one line.

Each exchange is limited by the server where it lives, and by `ledger.deadline` where it doesn't. A pooler that hands
out sessions by transaction keeps no setting of a session, so there each transaction brings its limits along.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import SecretStr
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ledger.deadline import deadlines
from ledger.errors import LedgerError, LedgerNotReady, LedgerUnavailable

_DIALECTS = ("postgresql", "sqlite")
_SEVERAL_HOSTS = re.compile(r"^(postgres[^:/]*://(?:[^@/]*@)?)([^@/?]*,[^@/?]*)(/[^?]*)?(?:\?(.*))?$")
_POOLED = "behind a pooler"
_POOLER_SAYS = "unsupported startup parameter"


def open_engine(url: str | SecretStr, timeout: float) -> Engine:
    """An engine for `url`, a SQLAlchemy URL of PostgreSQL or SQLite. Nothing is sent before its first use.

    Several hosts may be given as libpq takes them, `postgresql://user@a:5432,b:5432/database?target_session_attrs=
    read-write`, and a service of `pg_service.conf` as `postgresql://?service=name`.

    Raises:
        LedgerError: the URL names no database that the ledger can live in.
    """
    parsed = parsed_url(url)
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


def is_pooled(connection: Connection) -> bool:
    """Whether a pooler (pgbouncer) is between: from one transaction to the next the server may be another session."""
    return bool(connection.connection.info.get(_POOLED))


@contextlib.contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turn what SQLAlchemy raises into a `LedgerError` of one line, without credentials."""
    try:
        yield
    except SQLAlchemyError as error:
        raise _explain(error, url) from None


def parsed_url(url: str | SecretStr) -> URL:
    """The URL as SQLAlchemy has it. Raises LedgerError: it names no database that the ledger can live in."""
    secret = url.get_secret_value() if isinstance(url, SecretStr) else url
    try:
        parsed = make_url(_SEVERAL_HOSTS.sub(_as_parameters, secret, count=1))
        names_one = bool(parsed.database or "service" in parsed.query) and parsed.get_backend_name() in _DIALECTS
        if names_one:
            parsed.get_dialect()().create_connect_args(parsed)  # it is the driver that reads hosts and ports
    except (ArgumentError, ValueError, ImportError):
        names_one = False
    if not names_one:
        raise LedgerError(
            "the ledger's database URL is not usable: it should look like postgresql://user:password@host/database"
            " or sqlite:////path/to/audit.db; nothing was opened"
        )
    return parsed


def _as_parameters(found: re.Match[str]) -> str:
    """libpq's list of hosts in the way in which SQLAlchemy takes several."""
    before, hosts, path, rest = found.groups()
    return f"{before}{path}?{'&'.join(f'host={host}' for host in hosts.split(','))}{'&' if rest else ''}{rest or ''}"


def _sqlite(url: URL, timeout: float) -> Engine:
    engine = create_engine(url, hide_parameters=True, pool_timeout=timeout, connect_args={"timeout": timeout})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgresql(url: URL, timeout: float) -> Engine:
    limit = int(timeout * 1000)
    limits = {
        "statement_timeout": limit,
        "lock_timeout": limit,
        # Frees the lock of appends from a writer that was frozen while it held it.
        "idle_in_transaction_session_timeout": max(limit, 5000),
    }
    engine = create_engine(
        url.set(drivername="postgresql+psycopg2"),
        hide_parameters=True,
        pool_timeout=timeout,
        connect_args={
            "connect_timeout": max(2, math.ceil(timeout)),  # libpq takes whole seconds, and 1 for 2
            "tcp_user_timeout": limit,
            "application_name": "breaker-ledger",
        },
    )
    event.listen(engine, "do_connect", partial(_connect, limits))
    event.listen(engine, "connect", _keep_socket)
    event.listen(engine, "close", _close_socket)
    event.listen(engine, "begin", partial(_limit_transaction, limits))
    return engine


def _connect(
    limits: Mapping[str, int], dialect: Any, _: Any, arguments: Sequence[Any], settings: Mapping[str, Any]
) -> Any:
    """A connection whose session has `limits`; through a pooler that takes no options, one that has none."""
    options = " ".join([settings.get("options", ""), *(f"-c {name}={value}" for name, value in limits.items())])
    try:
        return dialect.connect(*arguments, **{**settings, "options": options})
    except dialect.loaded_dbapi.OperationalError as error:
        if _POOLER_SAYS not in str(error):
            raise
        return dialect.connect(*arguments, **settings)


def _limit_transaction(limits: Mapping[str, int], connection: Connection) -> None:
    if is_pooled(connection):
        said = "; ".join(f"SET LOCAL {name} = {value}" for name, value in limits.items())
        connection.exec_driver_sql(said)


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so, not where the driver guesses
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that will write takes its place in the queue at once, or it could fail half-way.
    write = connection.get_execution_options().get("ledger_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _keep_socket(connection: Any, record: Any) -> None:
    record.info[_POOLED] = "statement_timeout" not in connection.get_dsn_parameters().get("options", "")
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
