"""Indexes for what the audit page filters by, so that a value that few rows or none have is not looked for in all."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = (
    "CREATE INDEX audit_log_action ON audit_log (action, timestamp, seq)",
    "CREATE INDEX audit_log_user ON audit_log (user_id, timestamp, seq) WHERE user_id IS NOT NULL",
    "CREATE INDEX audit_log_outcome ON audit_log (outcome, timestamp, seq)",
)


def upgrade() -> None:
    for index in INDEXES:
        op.execute(index)


def downgrade() -> None:
    raise NotImplementedError("the audit log stays as it is; nothing was changed")
