"""The role `breaker_audit` may read which migration a database has had, so that the verification can judge it."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ROLE_EXISTS = "SELECT count(*) FROM pg_roles WHERE rolname = 'breaker_audit'"


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "postgresql" and connection.exec_driver_sql(ROLE_EXISTS).scalar():
        op.execute("GRANT SELECT ON audit_log_version TO breaker_audit")


def downgrade() -> None:
    raise NotImplementedError("the audit log stays append-only; nothing was changed")
