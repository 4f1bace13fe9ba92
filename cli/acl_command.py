"""Run `breaker acl`: print the access rules that this project's users of Redis need."""

from __future__ import annotations

from typing import Annotated

import typer

from breaker.errors import InvalidInput
from cli.exit_codes import EPILOG
from configuration.redis_access import REDIS_ROLES, acl_rule


def register(app: typer.Typer) -> None:
    app.command(epilog=EPILOG)(acl)


def acl(
    roles: Annotated[
        list[str] | None, typer.Argument(help=f"Which: {', '.join(REDIS_ROLES)}; all of them without it.")
    ] = None,
) -> None:
    """The Redis commands that make a user for engines, for operators (this command line) and for services.

    Put a password in PASSWORD's place and paste them into redis-cli; nothing is changed here.
    """
    wanted = roles or list(REDIS_ROLES)
    if unknown := [role for role in wanted if role not in REDIS_ROLES]:
        raise InvalidInput(f"{unknown[0]!r:.40} is no kind of user; use {', '.join(REDIS_ROLES)}")
    for role in REDIS_ROLES:
        if role in wanted:
            typer.echo(f"ACL SETUSER breaker-{role} on >PASSWORD {acl_rule(role)}")
