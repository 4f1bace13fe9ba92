"""Tell whether the `make up` of this folder still runs, end it, and clean up after one that died.

It runs for exactly as long as it holds the lock on `.breaker/up.pid`: a process that dies gives it back, however it
dies, and no other has it by accident, whatever its id. Nothing but the standard library, as `make` runs this by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HOME = Path(".breaker")
PID = "up.pid"
SETTINGS = "up.mk"
CONFIGURATION = "breaker.toml"
"""Of the stack; never the folder's own."""
LOCK_WAIT = 1.0
"""Seconds; longer than anybody holds it who only looks."""
DOWN_WAIT = 60.0


@contextlib.contextmanager
def hold_pid_file(home: Path) -> Iterator[bool]:
    """Whether this process is the one `make up` of `home` while the block runs; what the last one left is gone."""
    until = time.monotonic() + LOCK_WAIT
    while (file := _locked(home)) is None:
        if time.monotonic() > until:
            yield False
            return
        time.sleep(0.02)  # somebody may only be looking
    try:
        _remove(home, SETTINGS, CONFIGURATION)
        os.ftruncate(file, 0)
        os.write(file, str(os.getpid()).encode())
        yield True
    finally:
        _remove(home, SETTINGS, CONFIGURATION, PID)
        os.close(file)


def is_running(home: Path) -> bool:
    """Whether it runs. If it does not, what it left behind is removed, and that is said."""
    if not any((home / name).exists() for name in (PID, SETTINGS)):
        return False
    file = _locked(home)
    if file is None:
        return True
    try:
        _remove(home, SETTINGS, CONFIGURATION, PID)
    finally:
        os.close(file)
    sys.stderr.write(f"A `make up` died here; the settings that it left in {home} are removed, its data is kept.\n")
    return False


def main() -> int:
    command = sys.argv[1]
    running = is_running(HOME)
    if command == "settings":
        if running and (HOME / SETTINGS).is_file():
            sys.stdout.write(f"{HOME / SETTINGS}\n")
        return 0
    if command == "down":
        return _down() if running else _say("nothing is up", 0)
    if running:
        return _say("it runs: `make down` stops it, then `make clean` removes what it kept", 1)
    shutil.rmtree(HOME, ignore_errors=True)
    return 0


def _down() -> int:
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((HOME / PID).read_text()), signal.SIGTERM)
    until = time.monotonic() + DOWN_WAIT
    while time.monotonic() < until:
        if (file := _locked(HOME)) is not None:
            _remove(HOME, SETTINGS, CONFIGURATION, PID)
            os.close(file)
            return 0
        time.sleep(0.05)
    return _say(f"it did not end within {DOWN_WAIT:g} s; its process is the one in {HOME / PID}", 1)


def _say(text: str, status: int) -> int:
    sys.stdout.write(f"{text}\n")
    return status


def _locked(home: Path) -> int | None:
    """The pid file, open and locked; None while another process has it."""
    home.mkdir(exist_ok=True, mode=0o700)
    while True:
        file = os.open(home / PID, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), (home / PID).stat()):
                return file
        os.close(file)  # whoever had it has removed it meanwhile


def _remove(home: Path, *names: str) -> None:
    for name in names:
        (home / name).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
