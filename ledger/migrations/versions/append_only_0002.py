"""Rows of the audit log are final: triggers refuse to change them, and a role exists that may only add and read.

On PostgreSQL the triggers fire in every replication role (`ENABLE ALWAYS`), so `session_replication_role` does not
silence them, and per statement, so `ON CONFLICT DO UPDATE`, `MERGE` and an update of no row are refused too. On SQLite
`INSERT OR REPLACE` would delete without firing a delete trigger, so taking another row's place is refused as well.

The role `breaker_audit` may select and insert, and nothing else: grant it to the user that the services connect as, and
let another user own the table (docs/explanation/ledger.md). Where the migrating user may not create roles, this is
skipped with a note in the log.
"""

from __future__ import annotations

import logging

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

log = logging.getLogger("alembic.runtime.migration")

POSTGRESQL = (
    """
    CREATE FUNCTION audit_log_is_final() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'audit_log is append-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
    END
    $$
    """,
    """
    CREATE TRIGGER audit_log_is_final BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_final()
    """,
    "ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_is_final",
)

MAY_CREATE_ROLES = "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"

# Roles belong to the whole server: another database of it may have made the role already, perhaps at this moment.
ROLE = """
DO $$
BEGIN
    CREATE ROLE breaker_audit NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$
"""

ROLE_EXISTS = "SELECT count(*) FROM pg_roles WHERE rolname = 'breaker_audit'"

SQLITE = (
    """
    CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: UPDATE is refused'); END
    """,
    """
    CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: DELETE is refused'); END
    """,
    """
    CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log
    WHEN EXISTS (SELECT 1 FROM audit_log WHERE seq = NEW.seq OR id = NEW.id)
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: REPLACE is refused'); END
    """,
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for statement in SQLITE:
            op.execute(statement)
        return
    for statement in POSTGRESQL:
        op.execute(statement)
    _create_role()


def _create_role() -> None:
    connection = op.get_bind()
    if connection.exec_driver_sql(MAY_CREATE_ROLES).scalar():
        op.execute(ROLE)
    elif not connection.exec_driver_sql(ROLE_EXISTS).scalar():
        log.warning(
            "the role breaker_audit was not created: this user may not. docs/explanation/ledger.md has the statements"
        )
        return
    op.execute("GRANT SELECT, INSERT ON audit_log TO breaker_audit")


def downgrade() -> None:
    raise NotImplementedError("the audit log stays append-only; nothing was changed")
