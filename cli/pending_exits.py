"""Give up pending exits that nobody would resume any more."""

from __future__ import annotations

import typer

from configuration.settings import Settings


def drop_pending_exits(settings: Settings, scope: str, reason: str, operator: str) -> None:
    """Drop what the reset breaker leaves behind, on record; says which. Raises LedgerError: then nothing is dropped."""
    from tasks.kill.exit_records import drop_exits  # noqa: PLC0415  SQLAlchemy is slow to import

    for pending in drop_exits(settings, scope, reason=reason, by=operator, source="cli"):
        typer.echo(f"breaker: dropped the pending exit {pending.what}: {reason}", err=True)
