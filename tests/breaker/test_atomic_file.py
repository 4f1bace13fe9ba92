"""A file is there whole or not at all, whatever its writer dies of."""

from __future__ import annotations

import os
import signal
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from breaker.atomic_file import atomic_file, write_atomically

BEFORE, AFTER = "before\n" * 20_000, "after\n" * 30_000


def test_the_content_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    write_atomically(path, BEFORE)
    write_atomically(path, "ä €".encode(), mode=0o640)
    assert path.read_text("utf-8") == "ä €"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_only_its_owner_can_read_it_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "trip.json"
    path.touch(mode=0o644)
    write_atomically(path, "{}")
    assert path.stat().st_mode & 0o777 == 0o600


def test_readers_see_one_of_the_contents_while_several_write(tmp_path: Path) -> None:
    path = tmp_path / "verification.json"
    write_atomically(path, BEFORE)
    done = threading.Event()

    def write(content: str) -> None:
        while not done.is_set():
            write_atomically(path, content)

    writers = [threading.Thread(target=write, args=(content,)) for content in (BEFORE, AFTER)]
    for writer in writers:
        writer.start()
    try:
        seen = {path.read_text() for _ in range(300)}
    finally:
        done.set()
        for writer in writers:
            writer.join()
    assert seen <= {BEFORE, AFTER}
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_raises_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    write_atomically(path, BEFORE)
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write(AFTER.encode())
        raise ZeroDivisionError
    assert path.read_text() == BEFORE
    assert list(tmp_path.iterdir()) == [path]


def test_what_the_disk_refuses_is_raised_and_the_file_is_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", "x")
    (tmp_path / "directory").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "directory", "x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["directory"]


@pytest.mark.parametrize("call", ["write", "fsync of the file", "rename", "fsync of the directory"])
def test_a_writer_killed_at_any_call_leaves_the_old_content_or_the_new(tmp_path: Path, call: str) -> None:
    path = tmp_path / "trip.json"
    write_atomically(path, BEFORE)
    child = os.fork()
    if child == 0:  # pragma: no cover -- ends by its own signal
        _die_at(call)
        write_atomically(path, AFTER)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it never came to that call"
    assert path.read_text() == (AFTER if call == "fsync of the directory" else BEFORE)


def _die_at(call: str) -> None:
    """In the child: be killed where `write_atomically` first makes this call."""
    sync = os.fsync

    def die(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_at_fsync(fd: Any) -> None:
        if Path(f"/proc/self/fd/{fd}").is_dir() is call.endswith("directory"):
            die()
        sync(fd)

    match call:
        case "write":
            os.fdopen = die  # the file is there by then, and empty
        case "rename":
            Path.replace = die  # type: ignore[method-assign]
        case _:
            os.fsync = die_at_fsync


def test_what_is_no_regular_file_is_written_through_and_stays_what_it_is(tmp_path: Path) -> None:
    aimed, link, pipe = tmp_path / "aimed", tmp_path / "link", tmp_path / "pipe"
    aimed.write_text("before")
    link.symlink_to(aimed)
    write_atomically(link, "after")
    assert link.is_symlink() and aimed.read_text() == "after"
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    read: list[str] = []
    reader.start()
    write_atomically(pipe, "said")
    reader.join(10)
    assert read == ["said"] and stat.S_ISFIFO(pipe.lstat().st_mode)
    null = Path(os.devnull)
    before = null.lstat()
    write_atomically(null, "gone")
    assert null.lstat() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aimed", "link", "pipe"]
