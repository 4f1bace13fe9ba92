"""Read the last lines of a service's log, wherever it is kept; limited in time and in size."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from configuration.settings import LogSettings

DEADLINE = 5.0
LONGEST_LINE = 500
"""Characters; of longer ones the beginning is kept."""
_MOST_BYTES = 256 * 1024


class LogUnreadable(Exception):
    """The log can't be had; the message is one line."""


def shell_command(log: LogSettings) -> str:
    """How a person reads the same lines."""
    if log.file is not None:
        return f"tail -n {log.lines} {log.file}"
    return " ".join(_command(log))


async def read_log_tail(log: LogSettings) -> list[str]:
    """The newest lines, oldest first.

    Raises:
        LogUnreadable: there is no such log, it may not be read, or its tool didn't end within the deadline.
    """
    try:
        async with asyncio.timeout(DEADLINE):
            if log.file is not None:
                data = await asyncio.to_thread(_end_of, log.file)
            else:
                data = await _output_of(_command(log))
    except TimeoutError:
        raise LogUnreadable(f"{shell_command(log)} did not end within {DEADLINE:g} s") from None
    except OSError as error:
        raise LogUnreadable(f"{shell_command(log)}: {error.strerror or error}") from None
    lines = data.decode("utf-8", "replace").splitlines()[-log.lines :]
    return [line[:LONGEST_LINE] for line in lines]


def _end_of(path: Path) -> bytes:
    # Without blocking, in case the path is a pipe that nobody writes to.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(file, "rb") as opened:  # noqa: PTH123  a descriptor
        size = os.fstat(file).st_size
        opened.seek(max(0, size - _MOST_BYTES))
        return opened.read(_MOST_BYTES)


def _command(log: LogSettings) -> Sequence[str]:
    if log.journal is not None:
        return ("journalctl", "--no-pager", "-o", "short-iso", "-n", str(log.lines), "-u", log.journal)
    return ("docker", "logs", "--tail", str(log.lines), str(log.docker))


async def _output_of(command: Sequence[str]) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,  # docker repeats there what the service wrote to its own
    )
    try:
        kept = b""
        while chunk := await process.stdout.read(65_536) if process.stdout else b"":
            kept = (kept + chunk)[-_MOST_BYTES:]
        if await process.wait() != 0:
            said = kept.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise LogUnreadable(f"{' '.join(command)} failed: {said[0]:.200}")
        return kept
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
