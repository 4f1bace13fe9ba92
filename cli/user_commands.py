"""Run `breaker user` and `breaker token`: say who may use console and API."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from cli.circuit_view import console
from cli.exit_codes import EPILOG
from cli.options import JsonOption
from configuration.login import login_name
from configuration.settings import load_settings

if TYPE_CHECKING:
    from console.auth.identities import Identities

_Name = Annotated[str, typer.Argument(help="The user's name: a-z 0-9 . _ -", metavar="NAME")]
_Role = Annotated[str, typer.Option("--role", help="viewer, operator, risk_manager or admin.")]
_PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input; a random one otherwise.")
]

users = typer.Typer(no_args_is_help=True, help="Who may use the console, and in which role.")
tokens = typer.Typer(no_args_is_help=True, help="Tokens by which programs use the REST API.")


def register(app: typer.Typer) -> None:
    app.add_typer(users, name="user")
    app.add_typer(tokens, name="token")


@users.command("add", epilog=EPILOG)
def add_user(name: _Name, role: _Role = "viewer", password_stdin: _PasswordStdin = False) -> None:
    """A new user. The password is shown once, or read from standard input."""
    password = _password(password_stdin)
    with _identities("USER_ADDED", user=name, role=role) as identities:
        identities.users.add(name, _role(role), password)
    typer.echo(f"{name} ({role})" + ("" if password_stdin else f", password {password}  (shown this once)"))


@users.command("list", epilog=EPILOG)
def list_users(as_json: JsonOption = False) -> None:
    """Every user and role."""
    with _identities() as identities:
        found = identities.users.all()
    rows = [
        {
            "name": user.name,
            "role": user.role.value,
            "since": _day(user.created_at),
            "signs in by": user.issuer or "password",
        }
        for user in found
    ]
    _show(rows, ("name", "role", "since", "signs in by"), as_json)


@users.command("remove", epilog=EPILOG)
def remove_user(name: _Name) -> None:
    """End a user's access, sessions and tokens. What they did stays on record."""
    with _identities("USER_REMOVED", user=name) as identities:
        identities.users.remove(name)
    typer.echo(f"{name} is removed; sessions and tokens have ended")


@users.command("role", epilog=EPILOG)
def set_role(name: _Name, role: Annotated[str, typer.Argument(help="The new role.")]) -> None:
    """Give a user another role; the next sign-in has it."""
    with _identities("USER_ROLE_CHANGED", user=name, role=role) as identities:
        identities.users.set_role(name, _role(role))
    typer.echo(f"{name} is {role} now, and signed out")


@users.command("password", epilog=EPILOG)
def set_password(name: _Name, password_stdin: _PasswordStdin = False) -> None:
    """Give a user a new password, and end the user's sessions."""
    password = _password(password_stdin)
    with _identities("USER_PASSWORD_CHANGED", user=name) as identities:
        identities.users.set_password(name, password)
    typer.echo(f"{name} is signed out" + ("" if password_stdin else f"; password {password}  (shown this once)"))


@tokens.command("create", epilog=EPILOG)
def create_token(
    user: _Name,
    label: Annotated[str, typer.Option("--label", help="What it is for.")],
    permission: Annotated[
        list[str], typer.Option("--permission", help="VIEW_CIRCUIT, TRIP_CIRCUIT, …; may be repeated.")
    ],
    days: Annotated[float, typer.Option("--days", help="How long it holds; a year at most.")] = 90.0,
) -> None:
    """A new token of a user, shown once. It may do what both it and its user's role have."""
    from console.auth.permissions import Permission  # noqa: PLC0415  `--help` doesn't pay for it

    known = [word.value for word in Permission]
    if unknown := [word for word in permission if word not in known]:
        raise typer.BadParameter(f"{', '.join(unknown)}: use {', '.join(known)}", param_hint="--permission")
    with _identities("TOKEN_CREATED", user=user, label=label, permissions=permission) as identities:
        text, token = identities.tokens.create(user, label, [Permission(word) for word in permission], days)
    typer.echo(text)
    typer.echo(f"token {token.id} of {user} until {_day(token.expires_at)}; shown this once", err=True)


@tokens.command("list", epilog=EPILOG)
def list_tokens(as_json: JsonOption = False) -> None:
    """Every token that holds, without its secret."""
    with _identities() as identities:
        found = identities.tokens.all()
    rows = [
        {
            "id": token.id,
            "user": token.user,
            "label": token.label,
            "permissions": " ".join(sorted(token.permissions)),
            "until": _day(token.expires_at),
        }
        for token in found
    ]
    _show(rows, ("id", "user", "label", "permissions", "until"), as_json)


@tokens.command("revoke", epilog=EPILOG)
def revoke_token(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `breaker token list` shows it.")],
) -> None:
    """End a token at once."""
    with _identities("TOKEN_REVOKED", token=token_id) as identities:
        identities.tokens.revoke(token_id)
    typer.echo(f"token {token_id} is revoked")


@contextmanager
def _identities(action: str | None = None, **details: Any) -> Iterator[Identities]:
    """Whom the configured console knows; what is done with them is on record afterwards, and not if it failed."""
    from console.auth.identities import Identities  # noqa: PLC0415
    from console.auth.schema import upgrade  # noqa: PLC0415
    from ledger.configured import open_ready_ledger, open_spool  # noqa: PLC0415
    from ledger.record import AuditRecord  # noqa: PLC0415
    from ledger.recorder import Recorder  # noqa: PLC0415

    settings = load_settings()
    ledger = open_ready_ledger(settings)
    try:
        upgrade(ledger)
        yield Identities(ledger)
        if action is not None:
            record = AuditRecord(action=action, source="cli", user_id=login_name(), details=details)
            Recorder(ledger, open_spool(settings)).record(record)
    finally:
        ledger.close()


def _role(word: str) -> Any:
    from console.auth.permissions import Role  # noqa: PLC0415

    try:
        return Role(word)
    except ValueError:
        raise typer.BadParameter(f"{word!r} is no role: use {', '.join(Role)}; nothing changed") from None


def _password(from_stdin: bool) -> str:
    from console.auth.passwords import random_password  # noqa: PLC0415

    return sys.stdin.readline().rstrip("\n") if from_stdin else random_password()


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"


def _show(rows: list[dict[str, str]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    console().print(table)
