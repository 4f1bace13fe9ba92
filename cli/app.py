"""Every command, and the one place where an error becomes a line and an exit status."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from breaker.errors import BreakerError, BreakerUnavailable, InvalidInput, NotHalted, RedisRefused
from cli import circuit_commands, kill_command
from cli.exit_codes import EPILOG, Exit
from configuration.settings import ConfigurationError
from ledger.errors import LedgerError


def command_line(first: str = "") -> typer.Typer:
    """Every command. If `first`, the word on the command line, is `kill`, then only what that takes to import.

    Each import stands between the operator's key and the halt.
    """
    app = typer.Typer(
        name="breaker",
        help="Circuit breaker, kill switch and recovery for automated trading.",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_options)
    circuit_commands.register(app)
    kill_command.register(app)
    if first not in ("kill", "--version"):
        from cli import (  # noqa: PLC0415
            audit_commands,
            doctor_command,
            drill_command,
            recover_commands,
            service_commands,
            user_commands,
        )

        for commands in (
            recover_commands,
            audit_commands,
            doctor_command,
            drill_command,
            service_commands,
            user_commands,
        ):
            commands.register(app)
    if os.environ.get("BREAKER_URL"):
        from cli import remote_commands  # noqa: PLC0415  nothing of it is needed where the halt is made here

        remote_commands.take_over(app)
    return app


def run() -> int:
    """Run the command line; returns the exit status of an error, leaves with it otherwise."""
    try:
        command_line(*sys.argv[1:2])()
    except (ConfigurationError, InvalidInput) as error:
        return _fail(error, Exit.USAGE)
    except (BreakerUnavailable, RedisRefused, NotHalted) as error:
        return _fail(error, Exit.NOT_HALTED)
    except (BreakerError, LedgerError) as error:
        return _fail(error, Exit.REFUSED)
    return Exit.OK


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415  a kill doesn't ask

        typer.echo(f"breaker {version('trading-breaker-ops')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """What can be said before a command; the text of the help is the application's."""


def _fail(error: Exception, status: Exit) -> int:
    sys.stderr.write(f"breaker: {error}\n")
    return status
