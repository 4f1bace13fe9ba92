"""Every command, and the one place where an error becomes a line and an exit status."""

from __future__ import annotations

import sys

import typer

from breaker.errors import BreakerError, BreakerUnavailable, InvalidInput, RedisRefused
from breaker.settings import ConfigurationError
from cli import audit_commands, circuit_commands, kill_command, recover_commands, standby_commands, user_commands
from cli.exit_codes import EPILOG, Exit
from cli.tripping import NotHalted
from ledger.errors import LedgerError

app = typer.Typer(
    name="breaker",
    help="Circuit breaker, kill switch and recovery for automated trading.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
circuit_commands.register(app)
kill_command.register(app)
recover_commands.register(app)
audit_commands.register(app)
standby_commands.register(app)
user_commands.register(app)


def run() -> int:
    """Run the command line; returns the exit status of an error, leaves with it otherwise."""
    try:
        app()
    except (ConfigurationError, InvalidInput) as error:
        return _fail(error, Exit.USAGE)
    except (BreakerUnavailable, RedisRefused, NotHalted) as error:
        return _fail(error, Exit.NOT_HALTED)
    except (BreakerError, LedgerError) as error:
        return _fail(error, Exit.REFUSED)
    return Exit.OK


def _fail(error: Exception, status: Exit) -> int:
    sys.stderr.write(f"breaker: {error}\n")
    return status
