"""Ask a person on the terminal. Ctrl-C, Ctrl-D and a terminal that is closed are answers too, and mean no."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

_LONGEST_LINE = 4096
"""Bytes; a terminal hands over no longer line."""


class Unanswered(Exception):
    """Whoever was asked has left the question, before anything was changed."""


def ask(question: str) -> str:
    """Raises Unanswered."""
    with _answering():
        return str(typer.prompt(question, err=True)).strip()


def agreed(question: str) -> bool:
    """Raises Unanswered."""
    with _answering():
        return typer.confirm(question, err=True)


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (typer.Abort, KeyboardInterrupt):  # the latter while the question is still being written
        typer.echo(err=True)  # the question's line is left as it stands
        raise Unanswered("not answered; nothing changed") from None


async def read_line() -> str | None:
    """The line that is typed; None for Ctrl-C, Ctrl-D or a terminal that is closed.

    Read on the loop: a thread that reads can't be left before a line is typed, and takes that line from whoever reads
    next. To be awaited on the main thread, as signals are only handled there.
    """
    loop, terminal = asyncio.get_running_loop(), sys.stdin.fileno()
    answer: asyncio.Future[str | None] = loop.create_future()
    typed = bytearray()

    def settle(line: str | None) -> None:
        if not answer.done():
            answer.set_result(line)

    def read() -> None:
        try:
            new = os.read(terminal, _LONGEST_LINE)
        except OSError:  # as a terminal that is closed answers
            new = b""
        typed.extend(new)
        if not new:
            settle(None)
        elif new.endswith(b"\n"):
            settle(typed.decode(errors="replace"))

    before = {
        number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(settle, None))
        for number in (signal.SIGINT, signal.SIGHUP)
    }
    loop.add_reader(terminal, read)
    try:
        return await answer
    finally:
        loop.remove_reader(terminal)
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
