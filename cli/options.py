"""The options that several commands share, and the breaker that they act on."""

from __future__ import annotations

import getpass
import os
import sys
from typing import Annotated

import typer

from breaker import CircuitBreaker
from breaker.settings import Settings

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


def login_name() -> str:
    """Who is at the keyboard: the person behind sudo rather than root."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def on_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def open_breaker(settings: Settings, scope: str) -> CircuitBreaker:
    from redis import Redis  # noqa: PLC0415  `--help` and usage errors don't pay for it

    redis = Redis.from_url(settings.redis_url.get_secret_value())
    return CircuitBreaker(
        redis, scope=scope, timeout=settings.redis_timeout, quiet_period=settings.quiet_period, source="cli"
    )
