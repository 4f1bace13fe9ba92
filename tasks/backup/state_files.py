"""Copy what a host keeps in its state directory, and put it back; what would act is put where nothing reads it.

Named one by one: whatever else lies in that directory, a key above all, gets into no archive.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from breaker.atomic_file import sync_directory, write_atomically

KEPT = ("checkpoints.jsonl", "incidents", "drills", "spool", "pending_trips", "pending_exits", "venue_locks")
SECRET = ("console.key",)
DISARMED = ("pending_exits", "venue_locks")
"""What would send orders, or change a setting at a venue, by itself."""
SET_ASIDE = "from_backup"
"""The directory beneath the state directory where a restore puts those."""


def copy_state(state_dir: Path, folder: Path, *, with_keys: bool) -> int:
    """Copy the files into `folder`; returns how many. What is removed meanwhile is left out. Raises OSError."""
    copied = 0
    for file in _files(state_dir, KEPT + (SECRET if with_keys else ())):
        target = folder / file.relative_to(state_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(file, target)
        except FileNotFoundError:
            continue
        copied += 1
    return copied


def put_back(folder: Path, state_dir: Path) -> int:
    """Write the copied files where they were, for their owner alone; returns how many. Raises OSError."""
    written = 0
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder)
        target = (state_dir / SET_ASIDE if name.parts[0] in DISARMED else state_dir) / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(target, file.read_bytes())
        sync_directory(target.parent)
        written += 1
    return written


def files_in_the_way(state_dir: Path) -> list[str]:
    """What a restore would replace or mix with its own, relative to the state directory."""
    return [str(file.relative_to(state_dir)) for file in _files(state_dir, KEPT + SECRET) if file.stat().st_size]


def _files(state_dir: Path, names: tuple[str, ...]) -> Iterator[Path]:
    for name in names:
        top = state_dir / name
        for path in (top, *sorted(top.rglob("*"))):
            if path.is_file() and not path.is_symlink() and path.suffix != ".lock" and not path.name.startswith("."):
                yield path
