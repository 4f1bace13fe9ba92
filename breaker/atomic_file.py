"""Write a file so that it is there whole or not at all, whatever the process or the machine dies of meanwhile.

Only a regular file in a directory that is ours to write is ever replaced: a device, a pipe or a link is written
through, as any program would.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from uuid import uuid4


def write_atomically(path: Path, data: str | bytes, *, mode: int = 0o600) -> None:
    """Make `data` the content of `path`, and return once content and name are on the disk.

    Readers see the old content or the new one, never a part. Concurrent writers each write a whole file; the last one
    to finish wins.

    Args:
        path: The file; its directory must exist. A regular file of that name is replaced, if its directory can be
            written; what is no regular file (a device, a pipe, a link) is written through.
        data: Its content; text is written as UTF-8.
        mode: Its permissions, less what the process's umask takes away.

    Raises:
        OSError: the disk refused; `path` is as it was before, except that it may be new when only its directory could
            not be synced.

    Example:
        >>> write_atomically(directory / "verification.json", '{"failing": []}')
        >>> (directory / "verification.json").read_text()
        '{"failing": []}'
    """
    with atomic_file(path, mode=mode) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """`write_atomically` for content that comes piece by piece: the file takes the name `path` when the block ends.

    A block that raises leaves `path` as it was.

    Args:
        path: As for `write_atomically`.
        mode: As for `write_atomically`.

    Yields:
        The file to write to.

    Raises:
        OSError: as for `write_atomically`.

    Example:
        >>> with atomic_file(directory / "export.jsonl") as file:
        ...     file.writelines(b"%d\\n" % number for number in range(3))
        >>> (directory / "export.jsonl").read_bytes()
        b'0\\n1\\n2\\n'
    """
    if not _is_replaceable(path):
        with path.open("wb") as file:
            yield file
        return
    partial = path.with_name(f".{path.name}.{uuid4()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _is_replaceable(path: Path) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return True
    return stat.S_ISREG(found.st_mode) and os.access(path.parent, os.W_OK)


def sync_directory(directory: Path) -> None:
    """Put the names in a directory on the disk: until then a crash may forget a file that is new or was renamed.

    Args:
        directory: The directory.

    Raises:
        OSError: it can't be opened or synced.

    Example:
        >>> (directory / "current.jsonl").touch()
        >>> sync_directory(directory)
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
