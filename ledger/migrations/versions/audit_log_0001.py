"""The audit log: one table, one chain."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TYPES = {
    # `json`, not `jsonb`: the text that was hashed must come back as it was.
    "postgresql": {"seq": "bigint", "time": "timestamptz", "json": "json"},
    "sqlite": {"seq": "integer", "time": "text", "json": "text"},
}

TABLE = """
CREATE TABLE audit_log (
    seq {seq} NOT NULL PRIMARY KEY,
    id text NOT NULL UNIQUE,
    timestamp {time} NOT NULL,
    recorded_at {time} NOT NULL,
    action text NOT NULL,
    user_id text,
    details {json} NOT NULL,
    ip_address text,
    source text NOT NULL,
    scope text NOT NULL,
    incident_id text,
    flow_run_id text,
    outcome text NOT NULL,
    prev_hash text NOT NULL,
    hash text NOT NULL
)
"""

INDEXES = (
    "CREATE INDEX audit_log_newest ON audit_log (timestamp, seq)",
    "CREATE INDEX audit_log_incident ON audit_log (incident_id, seq) WHERE incident_id IS NOT NULL",
    "CREATE INDEX audit_log_state ON audit_log (scope, seq) WHERE action IN ('CIRCUIT_BREAKER_TRIP',"
    " 'CIRCUIT_BREAKER_RESET', 'CIRCUIT_BREAKER_INITIALIZE', 'CIRCUIT_BREAKER_QUIET_PERIOD_END',"
    " 'CIRCUIT_BREAKER_OVERRIDE_DETECTED')",
)


def upgrade() -> None:
    op.execute(TABLE.format(**TYPES[op.get_bind().dialect.name]))
    for index in INDEXES:
        op.execute(index)


def downgrade() -> None:
    raise NotImplementedError("the audit log is not dropped by a migration; nothing was changed")
