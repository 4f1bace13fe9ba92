"""Say something beside a command's output: on standard error, on one line, with commands that can be pasted."""

from __future__ import annotations

import sys

from configuration.printed_commands import with_pastable


def say(text: object) -> None:
    """Commands in `text` stand in backticks."""
    sys.stderr.write(f"breaker: {with_pastable(str(text))}\n")
