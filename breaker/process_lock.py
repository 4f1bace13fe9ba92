"""Lock something among the processes of one host: by a file, so that a process that dies gives it back."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def process_lock(path: Path) -> Iterator[bool]:
    """Whether this process has the lock now; never waits for it. Its directory must exist.

    Raises:
        OSError: the file can't be opened.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(file)
