"""Say on standard error what a command is about to act on, before it does: environment, Redis and accounts."""

from __future__ import annotations

import sys
from collections.abc import Collection

from brokers.coverage import NamedScope, named_in
from cli.messages import say
from configuration.identity import configured_identity
from configuration.settings import Settings

NAMED = 12


def say_what_is_acted_on(settings: Settings, accounts: Collection[str] | None = None) -> None:
    """`accounts` are all that are configured unless given."""
    sys.stderr.write(f"breaker: {target_of(settings, accounts)}\n")


def scope_of(settings: Settings, scope: str) -> str:
    """What was typed, named as it is configured; one that nothing there names is asked about.

    Raises InvalidInput for what is no scope.
    """
    named = named_in(settings, scope)
    if named.doubt:
        ask_whether_meant(named)
    return named.scope


def ask_whether_meant(named: NamedScope) -> None:
    """A name that was mistyped looks like a breaker of which nothing is known."""
    say(f"{named.doubt}; is {named.scope} the breaker that is meant?")


def say_doubt(scope: str, doubt: str | None) -> None:
    """Warn of a trip that may halt nobody, if it may."""
    if doubt:
        say(
            f"WARNING: {doubt}: no gate may be watching {scope}, and orders may go on. It is tripped all the same; "
            "`breaker trip` halts everything"
        )


def target_of(settings: Settings, accounts: Collection[str] | None = None) -> str:
    """Environment, Redis and accounts, on one line and without secrets."""
    names = sorted(settings.accounts if accounts is None else accounts)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    which = f"{', '.join(names[:NAMED])}{more}" or "none"
    address = configured_identity(settings).address
    return f"environment {settings.environment_name} · Redis {address} · accounts {which}"
