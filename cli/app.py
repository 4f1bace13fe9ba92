"""Register every command, and turn errors into a line and an exit status in one place."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from breaker.errors import BreakerError, BreakerUnavailable, InvalidInput, NotHalted, RedisRefused
from cli import circuit_commands, kill_command, notices
from cli.environment import URL, through_console
from cli.exit_codes import EPILOG, Exit
from cli.messages import say
from cli.prompts import Unanswered
from configuration.settings import ConfigurationError
from configuration.unknown_variables import unknown_variables
from ledger.errors import LedgerError

LOCAL_ONLY = (
    "init",
    "recover",
    "audit",
    "incidents",
    "drill",
    "accounts",
    "equity",
    "rules",
    "deadman",
    "safety",
    "user",
    "token",
    "config",
    "backup",
    "restore",
)
"""What acts by this host's configuration. Not `doctor` and what serves: those are about this host in any case."""


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
            account_commands,
            acl_command,
            audit_commands,
            backup_commands,
            config_command,
            doctor_command,
            drill_command,
            equity_commands,
            incident_commands,
            recover_commands,
            rule_commands,
            safety,
            service_commands,
            user_commands,
        )

        for commands in (
            recover_commands,
            audit_commands,
            backup_commands,
            config_command,
            incident_commands,
            doctor_command,
            account_commands,
            drill_command,
            equity_commands,
            rule_commands,
            safety,
            service_commands,
            user_commands,
            acl_command,
        ):
            commands.register(app)
    if through_console():
        _refuse_local_only(app)
    return app


def _refuse_local_only(app: typer.Typer) -> None:
    """Put refusals in the place of what acts by this host, so that nobody takes it for the console's."""
    app.registered_groups = [group for group in app.registered_groups if group.name not in LOCAL_ONLY]
    anything = {"allow_extra_args": True, "ignore_unknown_options": True}
    for name in LOCAL_ONLY:
        app.command(name, help=f"Local only: refused while {URL} is set.", context_settings=anything)(_refuse)


def _refuse(context: typer.Context) -> None:
    raise InvalidInput(
        f"`breaker {context.info_name}` is local only: it goes by this host's configuration, and {URL} names a "
        f"console; nothing was done. Unset {URL} on a host with the configuration, or use the console's pages"
    )


def run() -> int:
    """Run the command line; returns the exit status of an error, leaves with it otherwise."""
    try:
        return _run_command()
    finally:
        notices.finish()


def _run_command() -> int:
    if not through_console() and (unknown := unknown_variables()):
        say(f"no setting has the name of {', '.join(unknown)}, which changes nothing; misspelt?")
    try:
        command_line(*sys.argv[1:2])()
    except (ConfigurationError, InvalidInput) as error:
        return _fail(error, Exit.USAGE)
    except (BreakerUnavailable, RedisRefused, NotHalted) as error:
        return _fail(error, Exit.NOT_HALTED)
    except (BreakerError, LedgerError, Unanswered) as error:
        return _fail(error, Exit.REFUSED)
    except OSError as error:
        named = f" {error.filename}" if error.filename else ""
        why = f"broke off, as this host refuses{named} ({error.strerror or error}); what was said before stands"
        return _fail(InvalidInput(f"{why}. Check state_dir: `breaker config`"), Exit.REFUSED)
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
    say(error)
    return status
