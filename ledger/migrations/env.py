"""Alembic's entry: runs the migrations on the connection it was given, or on the configured database."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from configuration.settings import load_settings
from ledger.ledger import Ledger
from ledger.location import database_url
from ledger.schema import migration_lock


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, version_table="audit_log_version")
    with context.begin_transaction():
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    url = context.get_x_argument(as_dictionary=True).get("url") or database_url(load_settings())
    ledger = Ledger.connect(url)
    with migration_lock(ledger.engine) as connection:
        migrate(connection)
    ledger.close()
