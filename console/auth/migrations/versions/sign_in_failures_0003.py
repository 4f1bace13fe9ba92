"""Failed sign-ins, counted by all consoles together."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "console_sign_in_failures",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("last", sa.Double, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("console_sign_in_failures")
