"""Define the options that several commands share."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from breaker.errors import InvalidInput
from breaker.keys import check_scope
from cli.messages import say
from configuration.locations import not_empty
from configuration.reasons import halt_operator, halt_reason

ScopeOption = Annotated[str, typer.Option("--scope", help="Which breaker: global, account:NAME, strategy:NAME, …")]
KillScopeOption = Annotated[
    str,
    typer.Option(
        "--scope",
        help="What is tripped, cancelled and closed, and nothing else: global, account:NAME, symbol:NAME with its "
        "options in every account, strategy:NAME the orders with its tag.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of text for people.")]
OperatorOption = Annotated[
    str | None, typer.Option("--operator", help="Who does this; the login name unless given.", show_default=False)
]
OperatorOrTokenOption = Annotated[
    str | None,
    typer.Option(
        "--operator",
        help="Who does this; the login name unless given. Through a console it is the user of the token.",
        show_default=False,
    ),
]
ClaimedOption = Annotated[
    str | None,
    typer.Option(
        "--operator",
        help="A name to be kept beside that of who does this, which is the login, or the user of BREAKER_TOKEN.",
        show_default=False,
    ),
]
RebaseOption = Annotated[
    bool,
    typer.Option(
        "--rebase-equity",
        help="Begin the high-water mark and the day's first equity anew with the reset: a drawdown that is left as it "
        "is trips again.",
    ),
]
TripReasonOption = Annotated[str, typer.Option("--reason", help="Why, in a sentence.")]


@dataclass(frozen=True, slots=True)
class ResetOptions:
    """What is asked for on the command line, acknowledged by then; `operator` is a name that was typed."""

    scope: str
    reason: str
    override: str
    operator: str | None
    expected_epoch: int | None
    rebase_equity: bool = False


def given_path(text: str) -> Path:
    """Raises InvalidInput for an empty one, which would be the working directory."""
    try:
        not_empty(text)
    except ValueError as error:
        raise InvalidInput(f"{error}; nothing was done. Name a file or a directory") from None
    return Path(text)


def checked_scope(scope: str) -> str:
    """Raises InvalidInput before anything is tried, and so before a trip of it could be kept."""
    check_scope(scope)
    return scope


def fit_for_halt(reason: str, operator: str | None) -> tuple[str, str | None]:
    """Reason and operator of a halt, which never fails for its words; what had to be changed in them is said."""
    why, name = halt_reason(reason), halt_operator(operator or "")
    if operator and not name.text:
        say("the operator's name was empty; the login name is kept")
    for changed in filter(None, (why.changed, name.text and name.changed)):
        say(f"{changed}; this halts all the same")
    return why.text, name.text or None


def on_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()
