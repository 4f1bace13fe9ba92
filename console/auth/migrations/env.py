"""Alembic's entry: runs the console's migrations on the connection that `console.auth.schema` gives it."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table="console_version")
with context.begin_transaction():
    context.run_migrations()
