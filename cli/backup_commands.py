"""Run `breaker backup` and `breaker restore`."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cli.acting_on import say_what_is_acted_on
from cli.circuit_view import console, next_step
from cli.exit_codes import EPILOG, Exit
from cli.options import JsonOption, given_path
from configuration.login import login_name
from configuration.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.backup.check import Check


def register(app: typer.Typer) -> None:
    for command in (backup, restore):
        app.command(epilog=EPILOG)(command)


def backup(
    where: Annotated[str, typer.Argument(help="A directory, or the file to be made; never written over one.")],
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Put the console's key into it too: whoever has it can sign in.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write ledger, Redis and this host's state directory into one archive, for its owner alone. Changes nothing.

    Configuration and secrets are not in it. Exit status 1 where the ledger's chain is broken; the archive is made then.
    """
    from tasks.backup.making import make_backup  # noqa: PLC0415  `--help` doesn't pay for it

    path = given_path(where)
    settings = load_settings()
    say_what_is_acted_on(settings)
    made = make_backup(settings, path, with_keys=with_keys)
    manifest = made.manifest
    if as_json:
        said = {"path": str(made.path), "sha256": made.sha256, **asdict(manifest)}
        typer.echo(json.dumps({name: value for name, value in said.items() if name != "members"}))
    else:
        typer.echo(f"{made.path}")
        typer.echo(
            f"{manifest.rows} rows of the ledger up to {manifest.head_seq}:{manifest.head_hash[:12]}, "
            f"{manifest.redis_keys} keys of Redis, {manifest.state_files} files, "
            f"the console's key {'is in it: keep it as you keep passwords' if with_keys else 'is not in it'}"
        )
        typer.echo(f"sha256 {made.sha256}")
        next_step(f"`breaker restore --check {shlex.quote(str(made.path))}`")
    if manifest.chain:
        sys.stderr.write(f"breaker: the ledger's chain is BROKEN, and was copied as it is: {manifest.chain}\n")
        raise typer.Exit(Exit.REFUSED)


def restore(
    archive: Annotated[str, typer.Argument(help="What `breaker backup WHERE` has made.")],
    check: Annotated[bool, typer.Option("--check", help="Only say what it would do and lose.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Restore a backup into an empty ledger, Redis and state directory. Every breaker of it is TRIPPED afterwards.

    Nothing that acts is restored: no dead-man's switch, request to kill, pending exit or watch. With --check, exit
    status 1 says that the archive is not sound.
    """
    from console.auth.schema import upgrade  # noqa: PLC0415
    from tasks.backup.check import check_backup  # noqa: PLC0415
    from tasks.backup.restoring import restore_backup  # noqa: PLC0415

    path = given_path(archive)
    settings = load_settings()
    if check:
        found = check_backup(settings, path)
        if as_json:
            typer.echo(json.dumps({**asdict(found), "sound": found.sound}, default=str))
        else:
            _show(found)
        if not found.sound:
            raise typer.Exit(Exit.REFUSED)
        return
    say_what_is_acted_on(settings)
    done = restore_backup(settings, path, by=login_name(), prepare=upgrade)
    if as_json:
        typer.echo(json.dumps({**asdict(done), "check": None, "not_restored": done.check.would_lose}, default=str))
        return
    tripped = ", ".join(done.tripped) or "no breaker: the backup had none"
    typer.echo(f"restored: {done.rows} rows, {done.keys} keys of Redis, {done.files} files; TRIPPED: {tripped}")
    _list("not restored:", done.check.would_lose)
    next_step("compare the book with the venue, then: `breaker recover --watch`")


def _show(found: Check) -> None:
    manifest = found.manifest
    console().print(
        Text.assemble(
            ("sound" if found.sound else "NOT SOUND", "bold green" if found.sound else "bold red"),
            f"  made {manifest.made_at} by {manifest.made_by} on {manifest.host}, environment "
            f"{manifest.environment or 'unnamed'}, version {manifest.version}",
        )
    )
    console().print(
        Text(f"{manifest.rows} rows, the last is {manifest.head_seq}, hash {manifest.head_hash}", "dim"), soft_wrap=True
    )
    _list("why it can't be restored:", found.problems)
    _list("against what is live:", found.comparison)
    _list("a restore would do:", found.would_do)
    _list("a restore would lose, or leave out:", found.would_lose)
    _list("in the way of a restore here:", found.in_the_way)


def _list(title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    out = console()
    out.print(Text(f"\n{title}", "bold"))
    for line in lines:
        out.print(Text(f"- {line}"))
