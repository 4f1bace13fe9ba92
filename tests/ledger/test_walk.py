"""What was done to a chain, told from the rows alone: who has rewritten the file has had every row in his hands."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from ledger.checkpoint import Checkpoint
from ledger.record import COLUMNS, GENESIS, AuditRecord, RawRow, chain
from ledger.verify import Damage, Verification, verify

PREVIOUS = COLUMNS.index("prev_hash")
AT = "2026-01-05T15:00:00Z"


class Rows:
    """The rows of a table, in batches of three."""

    def __init__(self, rows: Sequence[RawRow]) -> None:
        self.rows = sorted(rows, key=lambda row: row[0])

    def stream(self, after_seq: int = 0, /) -> Generator[Sequence[RawRow], None, None]:
        rows = [row for row in self.rows if row[0] > after_seq or (after_seq == 0 and row[0] <= 0)]
        for first in range(0, len(rows), 3):
            yield rows[first : first + 3]

    def rows_behind(self, hash_before: str, /) -> list[RawRow]:
        return [row for row in self.rows if row[PREVIOUS] == hash_before]


def written(*ids: str, after: Sequence[RawRow] = (), key: bytes | None = None) -> list[RawRow]:
    """The rows that a ledger writes for these events."""
    records = [
        AuditRecord(action="X", source="cli", id=name, timestamp=datetime(2026, 1, 5, tzinfo=UTC)) for name in ids
    ]
    before = (after[-1][0], after[-1][-1]) if after else (0, GENESIS)
    return chain(
        records, after_seq=before[0], after_hash=before[1], recorded_at=datetime(2026, 1, 5, tzinfo=UTC), key=key
    )


def moved(row: RawRow, seq: int) -> RawRow:
    """The same row under another number, its hash as it was."""
    return (seq, *row[1:])


def shifted(rows: Sequence[RawRow], by: int) -> list[RawRow]:
    return [moved(row, row[0] + by) for row in rows]


def point(row: RawRow) -> Checkpoint:
    return Checkpoint(row[0], row[-1], AT)


def changed(row: RawRow) -> RawRow:
    return (*row[:5], "mallory", *row[6:])


def forged(number: int, link: str) -> RawRow:
    """Hashed properly, as somebody without the key's help can."""
    record = AuditRecord(action="X", source="cli", id="forged")
    return chain([record], after_seq=number - 1, after_hash=link, recorded_at=datetime.now(UTC), key=None)[0]


TEN = written(*"abcdefghij")
FITS, FITS_FIRST = forged(5, TEN[3][-1]), forged(1, GENESIS)
STRAY = moved(forged(30, TEN[7][-1]), 5)
"""Neither its number nor its link is what its hash was made of."""
CHANGED = "does not have the content that its hash was made of: changed after it was written, or made with another key"
REHASHED = "than there is now: that one was changed and hashed again"
COPY = "was put in: it is a copy of row"


def told(found: Verification) -> tuple[Damage, int, str | None, str]:
    assert found.problem is not None and not found.whole, "nobody noticed"
    return found.problem.kind, found.problem.seq, found.problem.id, found.problem.sentence


@pytest.mark.parametrize(
    ("rows", "kind", "seq", "row_id", "sentence"),
    [
        pytest.param(TEN[1:], Damage.MISSING, 1, None, "row 1 is gone", id="the first"),
        pytest.param([*TEN[:4], *TEN[5:]], Damage.MISSING, 5, None, "row 5 is gone", id="one in between"),
        pytest.param([*TEN[:4], *TEN[6:]], Damage.MISSING, 5, None, "rows 5 to 6 are gone", id="two"),
        pytest.param(
            [*TEN[:4], *shifted(TEN[5:], -1)], Damage.MISSING, 5, None,
            "row 5 is gone; row 6 was given the number 5", id="one, and the others renumbered",
        ),
        pytest.param(
            [*TEN[:4], *shifted(TEN[6:], -2)], Damage.MISSING, 5, None,
            "rows 5 to 6 are gone; row 7 was given the number 5", id="two, and the others renumbered",
        ),
        pytest.param(
            [*TEN[:4], changed(TEN[6]), *TEN[7:]], Damage.MISSING, 5, None, "rows 5 to 6 are gone",
            id="two before one that was changed",
        ),
        pytest.param([*TEN[:4], changed(TEN[4]), *TEN[5:]], Damage.CHANGED, 5, "e", f"row 5 {CHANGED}", id="changed"),
        pytest.param(
            [*TEN[:4], FITS, *TEN[5:]], Damage.CHANGED, 5, "forged", f"row 6 follows another row 5 {REHASHED}",
            id="changed and hashed again",
        ),
        pytest.param(
            [FITS_FIRST, *TEN[1:]], Damage.CHANGED, 1, "forged",
            f"row 2 follows another row 1 {REHASHED}", id="the first changed and hashed again",
        ),
        pytest.param(
            [*TEN[:4], FITS, *shifted(TEN[4:], 1)], Damage.INSERTED, 5, "forged",
            "row 5 was put in: the row that was written as 5 is now row 6", id="put in so that it fits",
        ),
        pytest.param(
            [FITS_FIRST, *shifted(TEN, 1)], Damage.INSERTED, 1, "forged",
            "row 1 was put in: the row that was written as 1 is now row 2", id="put in so that it fits, as the first",
        ),
        pytest.param(
            [*TEN[:4], STRAY, *shifted(TEN[4:], 1)], Damage.INSERTED, 5, "forged",
            "row 5 was put in: the row that was written in its place is now row 6", id="put in as it was",
        ),
        pytest.param(
            [*TEN[:4], forged(5, GENESIS), *shifted(TEN[4:], 1)], Damage.INSERTED, 5, "forged",
            "row 5 was put in: the row that follows row 4 is now row 6", id="put in with a link to nothing",
        ),
        pytest.param(
            [*TEN[:4], forged(7, TEN[3][-1]), *shifted(TEN[4:], 3)], Damage.INSERTED, 7, "forged",
            "row 7 was put in: it says it follows row 4", id="put in behind a gap",
        ),
        pytest.param(
            [*TEN[:5], FITS, *TEN[5:]], Damage.INSERTED, 5, "forged",
            "a second row says it is row 5: forged was put in",
            id="put in under a number that there is",
        ),
        pytest.param(
            [moved(STRAY, 0), *TEN], Damage.INSERTED, 0, "forged", "a second row says it is row 0: forged was put in",
            id="put in before the first",
        ),
        pytest.param([*TEN, moved(TEN[2], 11)], Damage.INSERTED, 11, "c", f"row 11 {COPY} 3", id="a copy at the end"),
        pytest.param(
            [*TEN[:4], moved(TEN[1], 5), *TEN[5:]], Damage.INSERTED, 5, "b", f"row 5 {COPY} 2", id="a copy in between"
        ),
        pytest.param(
            [*TEN[:4], moved(TEN[6], 5), *TEN[5:]], Damage.INSERTED, 5, "g", f"row 5 {COPY} 7", id="a copy of a later"
        ),
        pytest.param(
            [*TEN[:4], moved(TEN[9], 5), *TEN[5:9]], Damage.MISSING, 5, None,
            "row 5 is gone; row 10 was given the number 5", id="one, and the last moved to its place",
        ),
        pytest.param(
            [*TEN[:4], STRAY, moved(changed(TEN[4]), 6), *shifted(TEN[5:], 1)], Damage.CHANGED, 5, "forged",
            f"row 5 {CHANGED}", id="put in, and what was there changed",
        ),
        pytest.param(
            [forged(1, TEN[3][-1]), *TEN[1:]], Damage.CHANGED, 1, "forged",
            "row 1 was not written as the first: that one is gone, and this says it follows another",
            id="the first put in with a link to another",
        ),
        pytest.param(
            [*TEN[:4], moved(TEN[9], 5), *TEN[5:9], moved(TEN[4], 10)], Damage.REORDERED, 5, "j",
            "row 5 was written as row 10, and row 5 is now row 10", id="one and the last swapped",
        ),
        pytest.param(
            [*TEN[:4], moved(TEN[5], 5), moved(TEN[4], 6), *TEN[6:]], Damage.REORDERED, 5, "f",
            "row 5 was written as row 6, and row 5 is now row 6", id="two neighbours swapped",
        ),
        pytest.param(
            [moved(TEN[9], 1), *TEN[1:9], moved(TEN[0], 10)], Damage.REORDERED, 1, "j",
            "row 1 was written as row 10, and row 1 is now row 10", id="the first and the last swapped",
        ),
    ],
)  # fmt: skip
def test_what_was_done_is_told(
    rows: Sequence[RawRow], kind: Damage, seq: int, row_id: str | None, sentence: str
) -> None:
    found = verify(Rows(rows))
    assert told(found) == (kind, seq, row_id, sentence)
    known = verify(Rows(rows), checkpoints=[point(TEN[9])])
    assert told(known) == (kind, seq, row_id, sentence), "what else is known changes nothing of it"


def test_a_checkpoint_knows_of_rows_that_are_gone_from_the_end_and_of_a_chain_that_was_written_anew() -> None:
    early, late = point(TEN[3]), point(TEN[9])
    for checkpoints in ([early, late], [late, early]):
        assert verify(Rows(TEN), checkpoints=checkpoints).whole
        gone = "rows 8 to 10 are gone from the end: the checkpoint of 2026-01-05T15:00:00Z saw row 10"
        assert told(verify(Rows(TEN[:7]), checkpoints=checkpoints)) == (Damage.TAIL_CUT, 8, None, gone)
        gone = "row 10 is gone from the end: the checkpoint of 2026-01-05T15:00:00Z saw row 10"
        assert told(verify(Rows(TEN[:9]), checkpoints=checkpoints)) == (Damage.TAIL_CUT, 10, None, gone)
    anew = "row 8 is not the one that the checkpoint of 2026-01-05T15:00:00Z saw: the chain was written anew"
    written_anew = Rows(written(*"abcdXfghij"))
    assert told(verify(written_anew, checkpoints=[early, point(TEN[7])])) == (Damage.CHANGED, 8, "h", anew)
    assert verify(written_anew).whole and verify(written_anew, checkpoints=[early]).whole


def test_a_row_that_only_a_checkpoint_has_seen_is_looked_for_that_far() -> None:
    """The last row was moved up and everything else behind it taken out."""
    left = [*TEN[:4], moved(TEN[9], 5)]
    sentence = "rows 5 to 9 are gone; row 10 was given the number 5"
    assert told(verify(Rows(left), checkpoints=[point(TEN[1]), point(TEN[9])])) == (Damage.MISSING, 5, None, sentence)
    unknown = verify(Rows([*TEN[:2], moved(TEN[9], 3)]))
    assert told(unknown)[:3] == (Damage.CHANGED, 3, "j"), "nobody knows how many there were"


@pytest.mark.parametrize(("start", "rows"), [(0, 10), (1, 10), (2, 9), (7, 4), (10, 1)])
def test_a_walk_from_a_checkpoint_begins_with_its_row(start: int, rows: int) -> None:
    begin = Checkpoint(0, GENESIS, AT) if start == 0 else point(TEN[start - 1])
    found = verify(Rows(TEN), start=begin)
    assert found.whole and (found.rows, found.seq, found.hash) == (rows, 10, TEN[-1][-1])
    if start:
        broken = [*TEN[: start - 1], changed(TEN[start - 1]), *TEN[start:]]
        kind, seq, row_id, sentence = told(verify(Rows(broken), start=begin))
        assert (kind, seq, row_id) == (Damage.CHANGED, start, TEN[start - 1][1]) and CHANGED in sentence
        taken_out = [*TEN[: start - 1], *TEN[start:]]
        if start < 10:
            assert told(verify(Rows(taken_out), start=begin)) == (Damage.MISSING, start, None, f"row {start} is gone")
        anew = written(*("X" + "bcdefghij"))
        assert "written anew" in told(verify(Rows(anew), start=begin))[3]


def test_nothing_is_whole_and_so_is_what_was_made_with_the_key() -> None:
    assert verify(Rows([])).whole and verify(Rows([]), start=Checkpoint(0, GENESIS, AT)).whole
    keyed = Rows(written(*"abc", key=b"k"))
    assert verify(keyed, key=SecretStr("k")).whole
    assert told(verify(keyed)) == (Damage.CHANGED, 1, "a", f"row 1 {CHANGED}")


def test_it_says_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([10.0, 12.5])
    monkeypatch.setattr("ledger.verify.time", SimpleNamespace(monotonic=lambda: next(moments)))
    assert verify(Rows(TEN)).seconds == 2.5
