"""Run `breaker acl`: print the access rules that this project's users of Redis need."""

from __future__ import annotations

from typing import Annotated

import typer
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from breaker.errors import BreakerError, InvalidInput
from cli.exit_codes import EPILOG
from cli.messages import say
from configuration.redis_access import NEWEST, REDIS_ROLES, acl_rule, parse_version
from configuration.redis_clients import redis_client
from configuration.settings import load_settings


def register(app: typer.Typer) -> None:
    app.command(epilog=EPILOG)(acl)


def acl(
    roles: Annotated[
        list[str] | None, typer.Argument(help=f"Which: {', '.join(REDIS_ROLES)}; all of them without it.")
    ] = None,
    redis_version: Annotated[
        str | None,
        typer.Option(help="Of the server that takes them, such as 7.0; unless given, the configured one is asked."),
    ] = None,
) -> None:
    """The Redis commands that make a user for engines, for operators (this command line) and for services.

    Put a password in PASSWORD's place and paste them into redis-cli; nothing is changed here.
    """
    wanted = roles or list(REDIS_ROLES)
    if unknown := [role for role in wanted if role not in REDIS_ROLES]:
        raise InvalidInput(f"{unknown[0]!r:.40} is no kind of user; use {', '.join(REDIS_ROLES)}")
    version = _version(redis_version)
    for role in REDIS_ROLES:
        if role in wanted:
            typer.echo(f"ACL SETUSER breaker-{role} on >PASSWORD {acl_rule(role, version)}")


def _version(given: str | None) -> tuple[int, ...]:
    if given is not None:
        try:
            return parse_version(given)
        except ValueError:
            raise InvalidInput(f"{given!r:.40} is no version of Redis; give one such as 7.0") from None
    try:
        settings = load_settings()
        with redis_client(settings, timeout=settings.redis_timeout, retry=Retry(NoBackoff(), 0)) as redis:
            return parse_version(str(redis.info("server")["redis_version"]))
    except (BreakerError, RedisError, OSError, KeyError, ValueError) as error:
        say(f"for Redis 7.2 and later, as the configured one doesn't tell its version ({type(error).__name__})")
        return NEWEST
