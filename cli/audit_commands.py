"""Run `breaker audit`: show what is on record, verify that it is whole, take it elsewhere."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cli.audit_view import show_rows
from cli.circuit_view import console
from cli.exit_codes import EPILOG, Exit
from cli.messages import say
from cli.options import JsonOption, OperatorOption, given_path
from cli.transitions import make_pending_trips
from configuration.login import login_name
from configuration.printed_commands import pastable
from configuration.reasons import MIN_REASON
from configuration.redis_clients import redis_client
from configuration.settings import load_settings

if TYPE_CHECKING:
    from ledger.queries import Filter
    from ledger.record import AuditRow

audit_app = typer.Typer(
    help="The audit log: what is on record, newest first.", epilog=EPILOG, invoke_without_command=True
)


_Action = Annotated[list[str] | None, typer.Option("--action", help="Only this action; may be repeated.")]
_User = Annotated[str | None, typer.Option("--user", help="Only what this person did.")]
_Since = Annotated[datetime | None, typer.Option("--since", help="Only from then on (UTC).")]
_Until = Annotated[datetime | None, typer.Option("--until", help="Only before then (UTC).")]
_Incident = Annotated[str | None, typer.Option("--incident", help="Only this incident.")]


def register(app: typer.Typer) -> None:
    audit_app.callback()(list_rows)
    for command in (verify, quarantine, export, drain, upgrade):
        audit_app.command(epilog=EPILOG)(command)
    app.add_typer(audit_app, name="audit")


def list_rows(
    context: typer.Context,
    action: _Action = None,
    user: _User = None,
    since: _Since = None,
    until: _Until = None,
    incident: _Incident = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 20,
    after: Annotated[str | None, typer.Option("--after", help="Where the page before ended.")] = None,
    as_json: JsonOption = False,
) -> None:
    """The audit log: what is on record, newest first."""
    if context.invoked_subcommand is not None:
        return
    from ledger.configured import open_ready_ledger  # noqa: PLC0415
    from ledger.queries import Filter  # noqa: PLC0415

    wanted = Filter(actions=action or (), user_id=user, since=_utc(since), until=_utc(until), incident_id=incident)
    page = open_ready_ledger(load_settings()).query(wanted, limit=limit, after=after)
    if as_json:
        for row in page.rows:
            typer.echo(json.dumps(_as_json(row), default=str))
        return
    show_rows(page.rows)
    if page.next:
        more = pastable(" ".join(["breaker audit", *_asked(wanted, limit), f"--after '{page.next}'"]))
        console().print(Text(f"more: {more}", "dim"), soft_wrap=True)


def _asked(wanted: Filter, limit: int) -> list[str]:
    """The options that ask for these rows again."""
    given = [
        *(("action", action) for action in wanted.actions),
        ("user", wanted.user_id),
        ("since", wanted.since and f"{wanted.since:%Y-%m-%dT%H:%M:%S}"),
        ("until", wanted.until and f"{wanted.until:%Y-%m-%dT%H:%M:%S}"),
        ("incident", wanted.incident_id),
        ("limit", str(limit)),
    ]
    return [f"--{name} {shlex.quote(value)}" for name, value in given if value]


def verify() -> None:
    """Walk the whole chain; names the first row that was changed, removed, inserted or moved. Exit status 1 if any."""
    from ledger.audit import verify_with_redis  # noqa: PLC0415
    from ledger.configured import open_checkpoints, open_ready_ledger  # noqa: PLC0415

    settings = load_settings()
    with redis_client(settings) as redis:
        ledger, checkpoints = open_ready_ledger(settings), open_checkpoints(settings)
        found = verify_with_redis(ledger, checkpoints, redis, timeout=settings.redis_timeout).verification
    if found.problem is None:
        typer.echo(f"whole: {found.rows} rows, the last is {found.seq}, hash {found.hash}")
        return
    typer.echo(f"BROKEN at row {found.problem.seq} ({found.problem.kind.value}): {found.problem.sentence}")
    if found.problem.refutes_checkpoint:
        say(
            "if it was lost or restored from an older copy, two people say so: "
            "`breaker audit quarantine --reason WHY --second-person NAME`"
        )
    raise typer.Exit(Exit.REFUSED)


def quarantine(
    reason: Annotated[str, typer.Option("--reason", help=f"What happened to it, {MIN_REASON} characters or more.")],
    second_person: Annotated[
        str | None,
        typer.Option("--second-person", help="Who answers for it too, where two persons have to; kept as claimed."),
    ] = None,
    operator: OperatorOption = None,
) -> None:
    """Give up the checkpoints that the log no longer holds, where it was lost or restored from an older copy.

    A row says what was given up, by whom and why; from then on the log is whole again. It takes RESET_CIRCUIT.
    """
    from tasks.ledger_quarantine import quarantine as give_up  # noqa: PLC0415

    done = give_up(load_settings(), reason, by=operator or login_name(), second_person=second_person)
    first, last = done.given_up[0], done.given_up[-1]
    typer.echo(
        f"given up: {len(done.given_up)} checkpoints of rows {first.seq} to {last.seq}, the last of {last.time}; "
        f"row {done.row} says so. `{pastable('breaker audit verify')}`"
    )


def export(
    path: Annotated[str, typer.Argument(help="Where to; a .csv name makes CSV, anything else JSON Lines.")],
    action: _Action = None,
    user: _User = None,
    since: _Since = None,
    until: _Until = None,
    incident: _Incident = None,
) -> None:
    """Write the log to a file: the whole, with a checkpoint by which an outsider can verify it, or a part.

    A part has every row's hash, but nothing follows from it about the rows between.
    """
    from ledger.configured import open_ready_ledger  # noqa: PLC0415
    from ledger.export import write_export  # noqa: PLC0415
    from ledger.queries import Filter  # noqa: PLC0415

    file, part = given_path(path), None
    if action or user or since or until or incident:
        part = Filter(actions=action or (), user_id=user, since=_utc(since), until=_utc(until), incident_id=incident)
    ledger = open_ready_ledger(load_settings())
    done = write_export(ledger, file, "csv" if file.suffix.lower() == ".csv" else "jsonl", part=part)
    why = "this is a part of the log" if part else "that is no file"
    beside = f"checkpoint in {done.checkpoint_path}" if done.checkpoint_path else f"no checkpoint, as {why}"
    typer.echo(f"{done.rows} rows in {done.path}, {beside}", err=done.checkpoint_path is None)


def drain() -> None:
    """Move everything that waits in this host's spool, in Redis's outboxes and in its copy of spools into the log."""
    from ledger import audit  # noqa: PLC0415
    from ledger.configured import open_ready_ledger, open_spool  # noqa: PLC0415
    from ledger.outbox import known_scopes  # noqa: PLC0415

    settings = load_settings()
    make_pending_trips(settings)
    ledger, redis = open_ready_ledger(settings), redis_client(settings)
    done = audit.drain(redis, ledger, open_spool(settings), known_scopes(redis, ledger), timeout=settings.redis_timeout)
    lost = sum(done.copy.moved.values())
    copied = f", {lost} records from the copy of a spool ({', '.join(done.copy.moved)})" if lost else ""
    typer.echo(f"{done.spool.moved} records from the spool, {done.outbox.moved} transitions from Redis{copied}")
    if done.spool.busy:
        say("another process is draining this host's spool: what came after it began waits for the next drain")
    for problem in done.problems:
        say(problem)
    if done.problems:
        raise typer.Exit(Exit.REFUSED)


def upgrade() -> None:
    """Bring the database, the log's tables and the console's, to the form that this version needs. Safe to repeat."""
    from console.auth.schema import upgrade as upgrade_console  # noqa: PLC0415
    from ledger.configured import open_ledger  # noqa: PLC0415
    from ledger.schema import upgrade as upgrade_log  # noqa: PLC0415

    ledger = open_ledger(load_settings(), timeout=30)
    upgrade_log(ledger)
    upgrade_console(ledger)
    typer.echo(f"{ledger} is up to date")


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment else None


def _as_json(row: AuditRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}
