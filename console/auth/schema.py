"""Bring the console's own tables to this version's form; they live beside the audit log and are migrated apart."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config

from ledger.ledger import Ledger
from ledger.schema import migration_lock


def upgrade(ledger: Ledger) -> None:
    """Run the migrations that are missing; several consoles may do so at once.

    Raises:
        LedgerUnavailable: the database can't be reached. Nothing was changed.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with ledger.explained(), migration_lock(ledger.engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
