"""Keep checkpoints: the end of the chain at some time, where whoever rewrites the database can't reach.

A chain alone can't tell that its last rows were cut off, nor that all of it was written anew. A checkpoint can: the row
of its number must be there and have its hash.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Container
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from breaker.atomic_file import write_atomically
from ledger.errors import ExportUnreadable, SpoolUnavailable
from ledger.record import iso

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The last row's `seq` and hash at `time`; seq 0 is the empty ledger."""

    seq: int
    hash: str
    time: str

    def __str__(self) -> str:
        """One line for a notification channel, which `parse` reads back."""
        return f"audit checkpoint {self.seq}:{self.hash} at {self.time}"

    @classmethod
    def now(cls, seq: int, row_hash: str) -> Self:
        """A checkpoint of the row `seq`, taken at this moment."""
        return cls(seq, row_hash, iso(datetime.now(UTC)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """A checkpoint from JSON, from a notification's line or from `seq:hash`.

        Raises:
            ExportUnreadable: it is none of these.
        """
        try:
            if text.lstrip().startswith("{"):
                values = json.loads(text)
                return cls(int(values["seq"]), str(values["hash"]), str(values["time"]))
            body, _, time = text.removeprefix("audit checkpoint ").strip().partition(" at ")
            seq, _, row_hash = body.partition(":")
            return cls(int(seq), _HASH.fullmatch(row_hash.lower())[0], time or "an unknown time")  # type: ignore[index]
        except (ValueError, KeyError, TypeError):
            raise ExportUnreadable(
                f"{text!r:.80} is no checkpoint: pass seq:hash, or the line or file it came in"
            ) from None


class Checkpoints:
    """A file of checkpoints, one a line, only ever added to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, checkpoint: Checkpoint) -> None:
        """Append, and return once it is on the disk.

        Raises:
            SpoolUnavailable: the file can't be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                os.write(file, (ending_of_torn_line(file) + json.dumps(asdict(checkpoint)) + "\n").encode())
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise SpoolUnavailable(
                f"{self.path} can't be written ({error.strerror}); the checkpoint is not kept"
            ) from None

    def give_up(self, refuted: Container[Checkpoint]) -> None:
        """Keep those no longer; they go into a file beside it (`.given_up`), which nothing reads.

        Raises:
            SpoolUnavailable: a file can't be read or written.
        """
        kept = self.all()
        beside = Checkpoints(self.path.with_name(f"{self.path.name}.given_up"))
        for checkpoint in kept:
            if checkpoint in refuted:
                beside.add(checkpoint)
        lines = "".join(json.dumps(asdict(each)) + "\n" for each in kept if each not in refuted)
        try:
            write_atomically(self.path, lines)
        except OSError as error:
            raise SpoolUnavailable(
                f"{self.path} can't be written ({error.strerror}); its checkpoints are as they were"
            ) from None

    def all(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint, oldest first; a line torn by a crash was never said to be kept, and is passed over."""
        try:
            lines = self.path.read_text().splitlines()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise SpoolUnavailable(f"{self.path} can't be read ({error.strerror}); verify with --checkpoint") from None
        return tuple(found for line in lines if (found := _parsed(line)) is not None)


def _parsed(line: str) -> Checkpoint | None:
    try:
        return Checkpoint.parse(line)
    except ExportUnreadable:
        return None


def ending_of_torn_line(file: int) -> str:
    """What to write first, so that a new line does not continue one that a crash cut short. The file must be locked."""
    size = os.fstat(file).st_size
    return "" if size == 0 or os.pread(file, 1, size - 1) == b"\n" else "\n"
