"""The role `breaker_console` may use the console's tables, and nothing else: the console needs to own nothing.

Where the migrating user may not create roles, this is skipped with a note in the log.
"""

from __future__ import annotations

import logging

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

log = logging.getLogger("alembic.runtime.migration")

TABLES = "console_users, console_sessions, console_tokens, console_sign_in_failures"

MAY_CREATE_ROLES = "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"

# Roles belong to the whole server: another database of it may have made the role already, perhaps at this moment.
ROLE = """
DO $$
BEGIN
    CREATE ROLE breaker_console NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$
"""

ROLE_EXISTS = "SELECT count(*) FROM pg_roles WHERE rolname = 'breaker_console'"


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        return
    if connection.exec_driver_sql(MAY_CREATE_ROLES).scalar():
        op.execute(ROLE)
    elif not connection.exec_driver_sql(ROLE_EXISTS).scalar():
        log.warning(
            "the role breaker_console was not created: this user may not. docs/explanation/ledger.md has the statements"
        )
        return
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLES} TO breaker_console")
    op.execute("GRANT SELECT ON console_version TO breaker_console")


def downgrade() -> None:
    op.execute(f"REVOKE ALL ON {TABLES}, console_version FROM breaker_console")
