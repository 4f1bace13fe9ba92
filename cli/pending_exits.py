"""Ask about pending exits at a reset: they are closed first, or dropped with a reason."""

from __future__ import annotations

import typer

from breaker.errors import BreakerError
from configuration.settings import Settings
from tasks.kill.pending_exit_store import read_pending_exits


class ExitsPending(BreakerError):
    """A reset was refused, as exits are pending, or it can't be told whether any are. Nothing changed."""


def refuse_while_pending(settings: Settings, scope: str) -> None:
    """Raises ExitsPending, which names them."""
    reading = read_pending_exits(settings)
    exits = reading.of_scope(scope)
    problems = "; ".join([*(str(pending) for pending in exits[:10]), *reading.problems])
    if problems:
        count = f"{len(exits)} exits are" if exits else "exits may be"
        raise ExitsPending(
            f"not reset: {count} pending: {problems}. Nothing changed. Wait until it is closed, close it now with "
            'breaker kill --resume, or give it up with --drop-pending "why it need not be closed"'
        )


def drop_pending_exits(settings: Settings, scope: str, reason: str, operator: str) -> None:
    """Drop what the reset breaker leaves behind, on record; says which. Raises LedgerError: then nothing is dropped."""
    from tasks.kill.exit_records import drop_exits  # noqa: PLC0415  SQLAlchemy is slow to import

    for pending in drop_exits(settings, scope, reason=reason, by=operator, source="cli"):
        typer.echo(f"breaker: dropped the pending exit {pending.what}: {reason}", err=True)
