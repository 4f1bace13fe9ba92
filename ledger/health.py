"""Check that the ledger's database is fit for work: it answers soon, takes rows, and is of this version."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from functools import cache

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, text
from sqlalchemy.exc import DBAPIError

from ledger.ledger import Ledger
from ledger.models import audit_log
from ledger.record import COLUMNS, GENESIS, AuditRecord, chain
from ledger.schema import HERE

_VERSION = text("SELECT version_num FROM audit_log_version")


@dataclass(frozen=True, slots=True)
class LedgerHealth:
    """`round_trip` in seconds; `revision` is the database's migration, None where this user may not read it."""

    round_trip: float
    revision: str | None
    newest_revision: str


def check_health(ledger: Ledger) -> LedgerHealth:
    """Ask the database something, write a row and take it back, and read which migration it is at.

    Raises:
        LedgerUnavailable, LedgerNotReady, LedgerError: it did not answer in time, or it does not take rows.
    """
    with ledger.explained(), ledger.connection() as connection:
        connection.execute(text("SELECT 1"))  # what follows is timed on a connection that stands
        connection.rollback()
        begun = time.monotonic()
        connection.execute(text("SELECT 1"))
        round_trip = time.monotonic() - begun
        connection.rollback()
        revision = _revision(connection)
        connection.rollback()
    with ledger.explained(), ledger.connection() as connection:
        _write_and_take_back(connection.execution_options(ledger_write=True))
    return LedgerHealth(round_trip, revision, newest_revision())


@cache
def newest_revision() -> str:
    return str(ScriptDirectory.from_config(Config(str(HERE / "alembic.ini"))).get_current_head())


def _revision(connection: Connection) -> str | None:
    try:
        return str(connection.execute(_VERSION).scalar())
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) == "42501":
            return None
        raise


def _write_and_take_back(connection: Connection) -> None:
    # A number that no row of the chain has, so that this neither waits for nor disturbs anybody who appends.
    place = -1 - secrets.randbits(48)
    record = AuditRecord(action="HEALTH_CHECK", source="flow")
    (row,) = chain([record], after_seq=place - 1, after_hash=GENESIS, recorded_at=record.timestamp, key=None)
    with connection.begin() as transaction:
        connection.execute(insert(audit_log), [dict(zip(COLUMNS, row, strict=True))])
        transaction.rollback()
