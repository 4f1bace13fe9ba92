"""Describe the table `audit_log`, on PostgreSQL and SQLite.

The migrations create it; this is what queries are built from. Every column is read as the text that was hashed, so what
is verified and exported is what is stored, whatever a driver makes of times and JSON.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    cast,
    func,
    text,
)
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

from ledger.record import COLUMNS, iso

POSTGRES_TIME_FORMAT = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'

TRANSITION_ACTIONS = {
    "TRIP": "CIRCUIT_BREAKER_TRIP",
    "RESET": "CIRCUIT_BREAKER_RESET",
    "INITIALIZE": "CIRCUIT_BREAKER_INITIALIZE",
    "QUIET_PERIOD_END": "CIRCUIT_BREAKER_QUIET_PERIOD_END",
}
"""What the breaker's transitions are called in the audit log."""

OVERRIDE_DETECTED = "CIRCUIT_BREAKER_OVERRIDE_DETECTED"

STATE_ACTIONS = (*TRANSITION_ACTIONS.values(), OVERRIDE_DETECTED)
"""The actions that say what state a breaker is in."""


class ExactJson(UserDefinedType[str]):
    """PostgreSQL's `json`, which keeps the text as it was written; `jsonb` would not, and the text is hashed."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "JSON"


class UtcTime(TypeDecorator[datetime]):
    """`timestamptz` on PostgreSQL; on SQLite the ISO text, which sorts as the times do."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | str | None, dialect: Dialect) -> Any:
        # Rows to be inserted carry the text already, and PostgreSQL reads it as well.
        return iso(value) if isinstance(value, datetime) and dialect.name == "sqlite" else value


metadata = MetaData()

audit_log = Table(
    "audit_log",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("timestamp", UtcTime, nullable=False),
    Column("recorded_at", UtcTime, nullable=False),
    Column("action", Text, nullable=False),
    Column("user_id", Text),
    Column("details", Text().with_variant(ExactJson(), "postgresql"), nullable=False),
    Column("ip_address", Text),
    Column("source", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("incident_id", Text),
    Column("flow_run_id", Text),
    Column("outcome", Text, nullable=False),
    Column("prev_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Index("audit_log_newest", "timestamp", "seq"),
    Index("audit_log_action", "action", "timestamp", "seq"),
    Index("audit_log_outcome", "outcome", "timestamp", "seq"),
)

IS_STATE = text(f"action IN ({', '.join(repr(action) for action in STATE_ACTIONS)})")
"""Which rows say what state a breaker is in, in the words of the index, or SQLite would not use it."""

Index("audit_log_state", audit_log.c.scope, audit_log.c.seq, postgresql_where=IS_STATE, sqlite_where=IS_STATE)
Index(
    "audit_log_incident",
    audit_log.c.incident_id,
    audit_log.c.seq,
    postgresql_where=text("incident_id IS NOT NULL"),
    sqlite_where=text("incident_id IS NOT NULL"),
)
Index(
    "audit_log_user",
    audit_log.c.user_id,
    audit_log.c.timestamp,
    audit_log.c.seq,
    postgresql_where=text("user_id IS NOT NULL"),
    sqlite_where=text("user_id IS NOT NULL"),
)


def raw_columns(dialect: str) -> list[ColumnElement[Any]]:
    """`COLUMNS` in the text form that is hashed."""
    if dialect != "postgresql":
        return [audit_log.c[name] for name in COLUMNS]
    as_text: dict[str, ColumnElement[Any]] = {
        "details": cast(audit_log.c.details, Text).label("details"),
        **{
            name: func.to_char(func.timezone("UTC", audit_log.c[name]), POSTGRES_TIME_FORMAT).label(name)
            for name in ("timestamp", "recorded_at")
        },
    }
    return [as_text.get(name, audit_log.c[name]) for name in COLUMNS]
