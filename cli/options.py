"""The options that several commands share, and the breaker that they act on."""

from __future__ import annotations

import getpass
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from breaker import BreakerUnavailable, CircuitBreaker, Durability, RedisRefused
from breaker.keys import check_scope
from breaker.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

ScopeOption = Annotated[str, typer.Option("--scope", help="Which breaker: global, account:NAME, strategy:NAME, …")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of text for people.")]
OperatorOption = Annotated[
    str | None, typer.Option("--operator", help="Who does this; the login name unless given.", show_default=False)
]

MIN_REASON = 20
"""A reset's reason has at least this many characters (runbook, *Reset via Web Console*)."""


MAX_REASON = 500


def checked_reason(text: str, *, at_least: int = 1) -> str:
    """The reason without blanks around it; a usage error, before anything is done, if it can't be kept as it is."""
    reason = text.strip()
    if not at_least <= len(reason) <= MAX_REASON or not reason.isprintable():
        raise typer.BadParameter(
            f"a reason is one line of {at_least} to {MAX_REASON} characters, this has {len(reason)}; nothing changed",
            param_hint="--reason",
        )
    return reason


def checked_scope(scope: str) -> str:
    """Raises InvalidInput before anything is tried, and so before a trip of it could be kept."""
    check_scope(scope)
    return scope


def login_name() -> str:
    """Who is at the keyboard: the person behind sudo rather than root."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def on_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def redis_of(settings: Settings) -> Redis:
    from redis import Redis  # noqa: PLC0415  `--help` and usage errors don't pay for it

    return Redis.from_url(settings.redis_url.get_secret_value())


def connect(settings: Settings, scope: str, source: str = "cli") -> CircuitBreaker:
    """The configured breaker of `scope`; trips that wait on this host go on waiting. See `open_breaker`."""
    return CircuitBreaker(
        redis_of(settings),
        scope=scope,
        timeout=settings.redis_timeout,
        quiet_period=settings.quiet_period,
        source=source,
        durability=Durability(settings.trip_durability, settings.trip_replicas),
    )


def open_breaker(settings: Settings, scope: str, *, only_to_read: bool = False) -> CircuitBreaker:
    """The configured breaker of `scope`, once every trip that waits on this host has been made.

    Raises BreakerUnavailable or RedisRefused if they can't be made; `only_to_read` says it on standard error instead.
    """
    from cli.tripping import tell_of_pending_trips  # noqa: PLC0415  it stands on this module

    try:
        tell_of_pending_trips(settings)
    except (BreakerUnavailable, RedisRefused) as error:
        if not only_to_read:
            raise
        sys.stderr.write(f"breaker: a trip waits on this host until Redis can be told: {error}\n")
    return connect(settings, scope)
