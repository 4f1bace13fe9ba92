"""Exports and checkpoints, verified as an outsider would: with the program printed in the documentation."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from ledger.audit import verify_ledger
from ledger.checkpoint import Checkpoint, Checkpoints
from ledger.errors import ExportUnreadable
from ledger.export import ExportedRows, Format, NotWritten, write_export
from ledger.ledger import Ledger
from ledger.record import COLUMNS, AuditRecord
from ledger.verify import Damage, verify

DOCUMENT = Path(__file__).parents[2] / "docs" / "explanation" / "ledger.md"
FORMATS = get_args(Format)


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    awkward = 'line\nbreak, "quotes"; ünï\r\n\x01\u2028 =1+1'
    ledger.append(
        [
            AuditRecord(
                action="X", source="cli", id=f"event-{n}", user_id=awkward if n % 2 else None, details={awkward: n}
            )
            for n in range(1, 11)
        ]
    )
    return ledger


def outsider(path: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    program = tmp_path / "outsider.py"
    program.write_text(blocks[0])
    assert len(blocks[0].strip().splitlines()) <= 25
    command = [sys.executable, "-I", str(program), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("form", FORMATS)
def test_an_outsider_can_verify_an_export(filled: Ledger, form: Format, tmp_path: Path) -> None:
    exported = write_export(filled, tmp_path / f"audit.{form}", form)
    assert exported.rows == 10
    assert (exported.checkpoint.seq, exported.checkpoint.hash) == filled.head()
    done = outsider(exported.path, tmp_path)
    assert (done.returncode, done.stdout) == (0, "10 rows are whole\n"), done.stderr
    rows = ExportedRows(exported.path)
    assert verify(rows, checkpoints=[rows.checkpoint()]).whole


def test_no_cell_is_a_formula_and_what_was_written_can_be_read_back(ledger: Ledger, tmp_path: Path) -> None:
    names = ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1", "'quoted", "''=1", "plain"]
    ledger.append([AuditRecord(action="X", source="cli", user_id=name) for name in names])
    path = write_export(ledger, tmp_path / "audit.csv", "csv").path
    cells = [cell for row in read(path) for cell in row.values()]
    assert not [cell for cell in cells if str(cell).startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert outsider(path, tmp_path).stdout == f"{len(names)} rows are whole\n"
    assert verify(ExportedRows(path), checkpoints=[ExportedRows(path).checkpoint()]).whole


@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_ledger_can_be_exported(ledger: Ledger, form: Format, tmp_path: Path) -> None:
    exported = write_export(ledger, tmp_path / f"audit.{form}", form)
    assert outsider(exported.path, tmp_path).stdout == "0 rows are whole\n"
    assert verify(ExportedRows(exported.path)).whole


def rewrite(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def read(path: Path) -> list[dict[str, object]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file)) if path.suffix == ".csv" else [json.loads(line) for line in file]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", list(Damage))
def test_tampering_with_an_export_is_noticed_by_us_and_by_outsiders(
    filled: Ledger, form: Format, kind: Damage, tmp_path: Path
) -> None:
    path = write_export(filled, tmp_path / f"audit.{form}", form).path
    rows = read(path)
    match kind:
        case Damage.CHANGED:
            rows[4]["user_id"] = "mallory"
        case Damage.MISSING:
            del rows[4]
        case Damage.INSERTED:
            rows.insert(4, {**rows[4], "id": "forged"})
        case Damage.REORDERED:
            rows[4], rows[7] = {**rows[7], "seq": 5}, {**rows[4], "seq": 8}
        case Damage.TAIL_CUT:
            del rows[4:]
    rewrite(path, rows)
    found = verify(ExportedRows(path), checkpoints=[ExportedRows(path).checkpoint()])
    assert found.problem is not None
    assert (found.problem.kind, found.problem.seq) == (kind, 5) or kind is Damage.INSERTED
    assert outsider(path, tmp_path).returncode == 1


def test_an_export_cut_in_a_line_is_unreadable_not_whole(filled: Ledger, tmp_path: Path) -> None:
    path = write_export(filled, tmp_path / "audit.jsonl").path
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ExportUnreadable, match="cut short"):
        verify(ExportedRows(path))


def test_an_export_that_cannot_be_written_leaves_the_old_one(filled: Ledger, tmp_path: Path) -> None:
    with pytest.raises(NotWritten, match="nothing was exported"):
        write_export(filled, tmp_path / "no such folder" / "audit.jsonl")
    assert list(tmp_path.glob(".*partial")) == []


def test_checkpoints_outlive_a_torn_line(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "state" / "checkpoints.jsonl")
    assert kept.all() == ()
    first, second = Checkpoint.now(1, "a" * 64), Checkpoint.now(2, "b" * 64)
    kept.add(first)
    with kept.path.open("a") as file:
        file.write('{"seq": 9, "ha')
    kept.add(second)
    assert kept.all() == (first, second)


@pytest.mark.parametrize("text", ["", "7", "7:xyz", "{}", "7:" + "a" * 63, "audit checkpoint"])
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(ExportUnreadable, match="no checkpoint"):
        Checkpoint.parse(text)


def test_a_checkpoint_can_be_read_back_from_the_notification_channel() -> None:
    point = Checkpoint.now(7, "ab" * 32)
    assert Checkpoint.parse(str(point)) == point
    assert Checkpoint.parse(f"7:{'AB' * 32}").hash == point.hash


def test_a_verification_keeps_a_checkpoint_and_the_next_one_starts_there(filled: Ledger, tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "checkpoints.jsonl")
    first = verify_ledger(filled, kept)
    assert first.verification.rows == 10
    assert first.checkpoint is not None
    filled.append([AuditRecord(action="X", source="cli")])
    second = verify_ledger(filled, kept, only_new=True)
    assert second.verification.rows == 2
    assert verify_ledger(filled, kept, only_new=True).verification.whole
    assert [point.seq for point in kept.all()] == [10, 11]
    foreign = verify_ledger(filled, kept, also=[Checkpoint.now(99, "c" * 64)])
    assert foreign.verification.problem is not None
    assert foreign.verification.problem.kind is Damage.TAIL_CUT
    assert foreign.checkpoint is None
    assert len(kept.all()) == 2
