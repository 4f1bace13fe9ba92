"""Run the command line, `breaker`."""

from __future__ import annotations

import io
import sys

from cli.environment import through_console
from cli.kill_handover import hand_over


def main() -> None:
    """Run the command line and leave with one of the documented exit statuses."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")  # a terminal that can't show a character fails no command
    if not through_console():
        hand_over(sys.argv[1:])
    try:
        from cli.app import run  # noqa: PLC0415  so that a missing package is one line, not a traceback
    except ModuleNotFoundError as error:
        sys.exit(f"breaker: {error.name} is missing; install anew with: uv tool install --force trading-breaker-ops")
    sys.exit(run())
