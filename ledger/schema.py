"""Bring a database to the form that this version of the ledger expects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, text

from ledger.errors import LedgerUnavailable
from ledger.ledger import Ledger

HERE = Path(__file__).parent
_MIGRATION_LOCK = 0x6272_6561_6B65_7222


def upgrade(ledger: Ledger, revision: str = "head") -> None:
    """Run the migrations that are missing up to `revision`; several hosts may do so at once.

    Raises:
        LedgerUnavailable: the database can't be reached, or is held by something else. Nothing was changed, as each
            upgrade is one transaction.
    """
    config = Config(str(HERE / "alembic.ini"))
    with ledger.explained(), migration_lock(ledger.engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


@contextlib.contextmanager
def migration_lock(engine: Engine) -> Iterator[Connection]:
    """A transaction that only one migration at a time has. Raises LedgerUnavailable: its directory can't be made."""
    database = engine.url.database
    if engine.dialect.name == "sqlite" and database:
        try:
            Path(database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerUnavailable(
                f"the ledger's directory {Path(database).parent} can't be made ({error.strerror}); nothing was written "
                "there: correct state_dir or database_url, or mount it writable"
            ) from None
    with engine.connect().execution_options(ledger_write=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = '60s'"))
            connection.execute(text("SET LOCAL lock_timeout = '30s'"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        yield connection
