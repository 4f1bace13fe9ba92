"""Walk the chain: is every row what it was when it was written, and are all of them there?

`verify` reads any source of rows, the database or an export, once and in constant memory. At the first row that does
not fit it stops, and looks a second time, now for what was done to it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from pydantic import SecretStr

from ledger.checkpoint import Checkpoint
from ledger.record import COLUMNS, FIELDS, GENESIS, RawRow, key_bytes, row_hash

_ID = COLUMNS.index("id")
_PREV_HASH = COLUMNS.index("prev_hash")
_HASH = COLUMNS.index("hash")
_HASHED = len(FIELDS)
_NOT_KNOWN = ""


class Damage(StrEnum):
    """What is wrong with the first row that does not fit."""

    CHANGED = "changed"
    MISSING = "missing"
    INSERTED = "inserted"
    REORDERED = "reordered"
    TAIL_CUT = "tail cut"


@dataclass(frozen=True, slots=True)
class Problem:
    """The first broken row: its number, its id if there is a row, and a sentence for people."""

    kind: Damage
    seq: int
    id: str | None
    sentence: str
    refutes_checkpoint: bool = False
    """The rows fit each other, and not what a checkpoint saw."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What a walk found. `rows` fit, up to row `seq`, whose hash is `hash`; `problem` is None for a whole chain."""

    rows: int
    seq: int
    hash: str
    problem: Problem | None
    seconds: float

    @property
    def whole(self) -> bool:
        return self.problem is None


class RowSource(Protocol):
    """Where rows can be read from in the chain's order: a `Ledger`, or an export."""

    def stream(self, after_seq: int = 0, /) -> Generator[Sequence[RawRow], None, None]: ...

    def rows_behind(self, hash_before: str, /) -> list[RawRow]:
        """Rows that say they follow the row with this hash."""
        ...


def verify(
    rows: RowSource,
    *,
    key: SecretStr | None = None,
    checkpoints: Iterable[Checkpoint] = (),
    start: Checkpoint | None = None,
) -> Verification:
    """Walk the chain from its beginning, or from `start`, a trusted checkpoint, and compare it with `checkpoints`.

    Raises:
        LedgerUnavailable, LedgerNotReady, ExportUnreadable: the rows could not be read to the end, which says nothing
            about whether they are whole.
    """
    begun = time.monotonic()
    walk = _Walk(rows, key_bytes(key), {point.seq: point for point in checkpoints}, start)
    problem = walk.run()
    return Verification(walk.rows, walk.seq, walk.hash, problem, time.monotonic() - begun)


class _Walk:
    def __init__(
        self, source: RowSource, key: bytes | None, checkpoints: dict[int, Checkpoint], start: Checkpoint | None
    ) -> None:
        self._source = source
        self._key = key
        self._checkpoints = checkpoints
        self.rows = 0
        # From a checkpoint the walk begins with its own row, to see that it is still there.
        from_beginning = start is None or start.seq == 0
        self.seq = 0 if start is None or from_beginning else start.seq - 1
        self.hash = GENESIS if from_beginning else _NOT_KNOWN
        if start is not None:
            self._checkpoints.setdefault(start.seq, start)

    def run(self) -> Problem | None:
        # Closed before anything is looked up, so that no reading of the database waits inside another one.
        with contextlib.closing(self._source.stream(self.seq)) as batches:
            found = self._first_misfit(batches)
        match found:
            case None:
                return self._tail()
            case Problem():
                return found
            case row:
                return self._diagnose(row)

    def _first_misfit(self, batches: Iterable[Sequence[RawRow]]) -> Problem | RawRow | None:
        for batch in batches:
            for row in batch:
                if not self._fits(row):
                    return tuple(row)
                if self._checkpoints and (problem := self._against_checkpoint(row)) is not None:
                    return problem
                self.seq, self.hash = row[0], row[_HASH]
                self.rows += 1
        return None

    def _fits(self, row: RawRow) -> bool:
        return (
            row[0] == self.seq + 1
            and (row[_PREV_HASH] == self.hash or self.hash == _NOT_KNOWN)
            and row_hash(row[:_HASHED], self._key) == row[_HASH]
        )

    def _against_checkpoint(self, row: RawRow) -> Problem | None:
        point = self._checkpoints.get(row[0])
        if point is None or point.hash == row[_HASH]:
            return None
        sentence = f"row {row[0]} is not the one that the checkpoint of {point.time} saw: the chain was written anew"
        return Problem(Damage.CHANGED, row[0], row[_ID], sentence, refutes_checkpoint=True)

    def _tail(self) -> Problem | None:
        """Whether a checkpoint knows of rows behind the last one."""
        last = max(self._checkpoints, default=0)
        if last <= self.seq:
            return None
        first = self.seq + 1
        gone = f"row {first} is" if first == last else f"rows {first} to {last} are"
        seen = f"the checkpoint of {self._checkpoints[last].time} saw row {last}"
        return Problem(Damage.TAIL_CUT, first, None, f"{gone} gone from the end: {seen}", refutes_checkpoint=True)

    def _diagnose(self, row: RawRow) -> Problem:
        """What was done to the first row that does not fit. Row `expected` should have followed, linked to our hash."""
        expected, seq, row_id = self.seq + 1, row[0], row[_ID]
        if seq < expected:
            return Problem(Damage.INSERTED, seq, row_id, f"a second row says it is row {seq}: {row_id} was put in")
        if self._hash_as(seq, row) == row[_HASH]:
            return self._diagnose_link(row)
        if seq > expected:
            return self._missing(expected, seq - 1)
        return self._diagnose_content(row)

    def _diagnose_content(self, row: RawRow) -> Problem:
        """The row has the right number, but its hash was made of something else."""
        seq, row_id = row[0], row[_ID]
        written_as, true_row = self._place_of(row), self._true_row()
        if written_as is None and true_row is None:
            sentence = f"row {seq} does not have the content that its hash was made of: changed after it was written"
            return Problem(Damage.CHANGED, seq, row_id, f"{sentence}, or made with another key")
        if written_as is None:
            sentence = f"row {seq} was put in: the row that was written in its place is now row {_number(true_row)}"
            return Problem(Damage.INSERTED, seq, row_id, sentence)
        if self._id_at(written_as) == row_id:
            return Problem(Damage.INSERTED, seq, row_id, f"row {seq} was put in: it is a copy of row {written_as}")
        if written_as < seq:
            sentence = f"row {written_as} was put in: the row that was written as {written_as} is now row {seq}"
            return Problem(Damage.INSERTED, written_as, self._id_at(written_as), sentence)
        if true_row is None:
            following = self._row_from(seq + 1)
            stayed = following is not None and self._hash_as(seq + 1, following) == following[_HASH]
            last = seq if stayed else written_as - 1
            return self._missing(seq, last, f"; row {written_as} was given the number {seq}")
        sentence = f"row {seq} was written as row {written_as}, and row {seq} is now row {_number(true_row)}"
        return Problem(Damage.REORDERED, seq, row_id, sentence)

    def _diagnose_link(self, row: RawRow) -> Problem:
        """The row is as somebody wrote it, but is not linked to the row before."""
        expected, seq, row_id = self.seq + 1, row[0], row[_ID]
        if seq > expected and row[_PREV_HASH] != self.hash:
            return self._missing(expected, seq - 1)
        if seq > expected:
            return Problem(Damage.INSERTED, seq, row_id, f"row {seq} was put in: it says it follows row {self.seq}")
        true_row = self._true_row()
        if true_row is not None:
            sentence = f"row {seq} was put in: the row that follows row {self.seq} is now row {_number(true_row)}"
            return Problem(Damage.INSERTED, seq, row_id, sentence)
        if self.seq == 0:
            sentence = f"row {seq} was not written as the first: that one is gone, and this says it follows another"
            return Problem(Damage.CHANGED, seq, row_id, sentence)
        sentence = f"row {seq} follows another row {self.seq} than there is now: that one was changed and hashed again"
        return Problem(Damage.CHANGED, self.seq, self._id_at(self.seq), sentence)

    def _missing(self, first: int, last: int, remark: str = "") -> Problem:
        gone = f"row {first} is" if first == last else f"rows {first} to {last} are"
        return Problem(Damage.MISSING, first, None, f"{gone} gone{remark}")

    def _place_of(self, row: RawRow) -> int | None:
        """The number with which the row's own hash is right, found by trying: the hash covers it."""
        last = max(self._checkpoints, default=0)
        with contextlib.closing(self._source.stream(self.seq)) as batches:
            last = max([last, *(batch[-1][0] for batch in batches)])
        for seq in range(1, last + 2):
            if self._hash_as(seq, row) == row[_HASH]:
                return seq
        return None

    def _true_row(self) -> RawRow | None:
        """The row that was written behind the last one that fits, if it has another number now."""
        if self.hash == _NOT_KNOWN:
            return None
        candidates = self._source.rows_behind(self.hash)
        return next((row for row in candidates if self._hash_as(self.seq + 1, row) == row[_HASH]), None)

    def _hash_as(self, seq: int, row: RawRow) -> str:
        return row_hash((seq, *row[1:_HASHED]), self._key)

    def _id_at(self, seq: int) -> str | None:
        row = self._row_from(seq)
        return None if row is None else str(row[_ID])

    def _row_from(self, seq: int) -> RawRow | None:
        """The first row with this number or a higher one."""
        with contextlib.closing(self._source.stream(seq - 1)) as batches:
            return next((tuple(row) for row in next(batches, [])), None)


def _number(row: RawRow | None) -> int | None:
    return None if row is None else int(row[0])
