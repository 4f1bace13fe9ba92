"""Define the console's own tables, in the ledger's database. Times are Unix seconds.

No password, token or session is kept in a form that could be used: passwords as argon2id, the other two, which are
random, as SHA-256.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Double, ForeignKey, Index, Integer, MetaData, Table, Text

metadata = MetaData()

users = Table(
    "console_users",
    metadata,
    Column("name", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("removed", Boolean, nullable=False),
    # Whoever signs in by an identity provider has its name for them instead of a password, which is empty.
    Column("issuer", Text),
    Column("subject", Text),
    Column("confirmed_at", Double),
    Index("console_users_of_issuer", "issuer", "subject", unique=True),
)

tokens = Table(
    "console_tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("secret_hash", Text, nullable=False),
    Column("user_name", Text, ForeignKey("console_users.name"), nullable=False),
    Column("label", Text, nullable=False),
    Column("permissions", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("revoked", Boolean, nullable=False),
)

sessions = Table(
    "console_sessions",
    metadata,
    Column("id_hash", Text, primary_key=True),
    Column("user_name", Text, ForeignKey("console_users.name"), nullable=False),
    Column("csrf", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("address", Text, nullable=False),
    Index("console_sessions_of_user", "user_name"),
)

failures = Table(
    "console_sign_in_failures",
    metadata,
    Column("key", Text, primary_key=True),
    Column("failed", Integer, nullable=False),
    Column("last", Double, nullable=False),
)
