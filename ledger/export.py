"""Export the ledger so that an outsider can verify it without the database: JSON Lines or CSV, and a checkpoint.

Every value is the text that was hashed, the details too, so that verification does not depend on how a language writes
numbers. docs/explanation/ledger.md has the twenty lines that verify an export.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from breaker.atomic_file import atomic_file, write_atomically
from ledger.checkpoint import Checkpoint
from ledger.errors import ExportUnreadable, LedgerError
from ledger.ledger import Ledger
from ledger.queries import Filter
from ledger.record import COLUMNS, GENESIS, RawRow

Format = Literal["jsonl", "csv"]

_BATCH = 2_000
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
_PREV_HASH = COLUMNS.index("prev_hash")


class NotWritten(LedgerError):
    """The export could not be written; a file of that name is as it was before."""


@dataclass(frozen=True, slots=True)
class Export:
    """A written export and the checkpoint that belongs to it."""

    path: Path
    checkpoint_path: Path | None
    """None for a part of the ledger, and where nothing can lie beside: at a device or a pipe."""
    rows: int
    checkpoint: Checkpoint


def checkpoint_path(path: Path) -> Path:
    """Where the checkpoint of an export lies."""
    return path.with_name(path.name + ".checkpoint.json")


def write_export(ledger: Ledger, path: Path, format: Format = "jsonl", *, part: Filter | None = None) -> Export:
    """Write the whole ledger to `path`, as of one moment, and its checkpoint beside it; both appear only when complete.

    What is no regular file (a device, a pipe) is written through, and gets no checkpoint beside it. A `part` of the
    ledger gets none either: its rows don't follow each other.

    Raises:
        NotWritten: the disk refused.
        LedgerUnavailable, LedgerNotReady: the ledger could not be read to its end.
    """
    beside = checkpoint_path(path) if path.is_file() or not path.exists() else None
    try:
        with _atomic_text(path) as file:
            rows, seq, last_hash = _write_rows(ledger, file, format, part)
        checkpoint = Checkpoint.now(seq, last_hash)
        if part is not None and beside is not None:
            beside.unlink(missing_ok=True)  # of the export that was here before
            beside = None
        if beside is not None:
            write_atomically(beside, json.dumps(asdict(checkpoint)) + "\n", mode=0o644)
    except OSError as error:
        raise NotWritten(
            f"{path} can't be written ({error.strerror}); nothing was exported: choose another place"
        ) from None
    return Export(path, beside, rows, checkpoint)


def _write_rows(ledger: Ledger, file: IO[str], format: Format, part: Filter | None) -> tuple[int, int, str]:
    rows, seq, last_hash = 0, 0, GENESIS
    table = csv.writer(file, lineterminator="\n")
    if format == "csv":
        table.writerow(COLUMNS)
    with contextlib.closing(ledger.stream(part=part)) as batches:
        for batch in batches:
            if format == "csv":
                table.writerows([_inert(value) for value in row] for row in batch)
            else:
                file.writelines(
                    json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) + "\n" for row in batch
                )
            rows, seq, last_hash = rows + len(batch), batch[-1][0], batch[-1][-1]
    return rows, seq, last_hash


@contextlib.contextmanager
def _atomic_text(path: Path) -> Iterator[IO[str]]:
    """A file that takes the place of `path` once it is complete and on the disk."""
    with atomic_file(path, mode=0o644) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        try:
            yield text
        finally:
            text.detach()


class ExportedRows:
    """The rows of an export, to be given to `verify` in place of a ledger."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def checkpoint(self) -> Checkpoint:
        """The checkpoint that was written with the export.

        Raises:
            ExportUnreadable: it is missing or damaged.
        """
        beside = checkpoint_path(self.path)
        try:
            return Checkpoint.parse(beside.read_text(encoding="utf-8"))
        except OSError as error:
            raise ExportUnreadable(
                f"{beside} can't be read ({error.strerror}): get the checkpoint of the export"
            ) from None

    def stream(self, after_seq: int = 0, /) -> Generator[Sequence[RawRow], None, None]:
        rows = (row for row in self._rows() if row[0] > after_seq or not after_seq)
        while batch := list(islice(rows, _BATCH)):
            yield batch

    def rows_behind(self, hash_before: str, /) -> list[RawRow]:
        return [row for row in self._rows() if row[_PREV_HASH] == hash_before]

    def _rows(self) -> Iterator[RawRow]:
        try:
            with self.path.open(encoding="utf-8", newline="") as file:
                yield from _read_csv(file) if self.path.suffix == ".csv" else _read_jsonl(file)
        except OSError as error:
            raise ExportUnreadable(f"{self.path} can't be read ({error.strerror})") from None
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise ExportUnreadable(f"{self.path} is not an export of the audit log, or is cut short: {error}") from None


def _inert(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula. A reader takes one apostrophe away from where one leads."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _read_jsonl(file: IO[str]) -> Iterator[RawRow]:
    for line in file:
        values = json.loads(line)
        yield int(values["seq"]), *(values[name] for name in COLUMNS[1:])


def _read_csv(file: IO[str]) -> Iterator[RawRow]:
    csv.field_size_limit(2**31 - 1)
    for values in csv.DictReader(file):
        # Empty and absent are one thing in the ledger, so nothing is lost in CSV.
        row: list[Any] = [values[name].removeprefix("'") or None for name in COLUMNS[1:]]
        yield int(values["seq"]), *row
