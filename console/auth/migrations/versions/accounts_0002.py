"""Users who sign in by an identity provider."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("console_users", sa.Column("issuer", sa.Text))
    op.add_column("console_users", sa.Column("subject", sa.Text))
    op.add_column("console_users", sa.Column("confirmed_at", sa.Double))
    op.create_index("console_users_of_issuer", "console_users", ["issuer", "subject"], unique=True)


def downgrade() -> None:
    op.drop_index("console_users_of_issuer", "console_users")
    for name in ("confirmed_at", "subject", "issuer"):
        op.drop_column("console_users", name)
