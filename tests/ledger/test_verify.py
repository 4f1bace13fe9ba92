"""Tampering by somebody who owns the database: triggers off, constraints gone, hashes made to fit where they can be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, text

from ledger.checkpoint import Checkpoint
from ledger.ledger import Ledger
from ledger.record import COLUMNS, GENESIS, AuditRecord, chain
from ledger.schema import upgrade
from ledger.verify import Damage, Verification, verify

ROWS = 12
MOVED = 1_000_000


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    ledger.append(
        [
            AuditRecord(action="ORDERS_CANCELED", source="flow", id=f"event-{n}", user_id="alice")
            for n in range(1, ROWS + 1)
        ]
    )
    return ledger


@contextlib.contextmanager
def as_superuser(ledger: Ledger) -> Iterator[Connection]:
    """A transaction in which nothing protects the table."""
    with ledger.engine.begin() as connection:
        if ledger.engine.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE audit_log DISABLE TRIGGER ALL"))
        else:
            for name in ("no_update", "no_delete", "no_replace"):
                connection.execute(text(f"DROP TRIGGER audit_log_{name}"))
        yield connection


def tamper(ledger: Ledger, *statements: str) -> None:
    with as_superuser(ledger) as connection:
        for statement in statements:
            connection.execute(text(statement))


def renumber_from(first: int, by: int) -> list[str]:
    """Shift rows without meeting the primary key on the way."""
    return [
        f"UPDATE audit_log SET seq = seq + {MOVED} WHERE seq >= {first}",
        f"UPDATE audit_log SET seq = seq - {MOVED} + {by} WHERE seq >= {MOVED}",
    ]


def forge(ledger: Ledger, seq: int, *, fitting: bool) -> str:
    """An INSERT of a row that never was, as `seq`; `fitting` links it to the row before and hashes it properly."""
    before = next((row for batch in ledger.stream() for row in batch if row[0] == seq - 1), None)
    record = AuditRecord(action="ORDERS_CANCELED", source="flow", id="forged", user_id="mallory")
    row = chain(
        [record],
        after_seq=seq - 1,
        after_hash=before[-1] if before is not None and fitting else GENESIS,
        recorded_at=datetime.now(UTC),
        key=None,
    )[0]
    values = ", ".join("NULL" if value is None else f"'{value}'" for value in row)
    return f"INSERT INTO audit_log ({', '.join(COLUMNS)}) VALUES ({values})".replace(":", r"\:")


def checkpoint(ledger: Ledger) -> Checkpoint:
    return Checkpoint.now(*ledger.head())


def assert_broken(found: Verification, kind: Damage, seq: int, row_id: str | None) -> None:
    assert found.problem is not None, "the tampering was not noticed"
    assert (found.problem.kind, found.problem.seq, found.problem.id) == (kind, seq, row_id), found.problem
    assert f"row {seq}" in found.problem.sentence or f"rows {seq}" in found.problem.sentence


def test_an_untouched_ledger_is_whole(filled: Ledger) -> None:
    found = verify(filled, checkpoints=[checkpoint(filled)])
    assert found.whole
    assert (found.rows, found.seq, found.hash) == (ROWS, *filled.head())


def test_an_empty_ledger_is_whole(ledger: Ledger) -> None:
    assert verify(ledger, checkpoints=[checkpoint(ledger)]).whole


@pytest.mark.parametrize("column", [name for name in COLUMNS if name != "seq"])
def test_a_changed_row_is_named_whatever_was_changed(filled: Ledger, column: str) -> None:
    value = {
        "timestamp": "2020-01-01T00:00:00.000000Z",
        "recorded_at": "2020-01-01T00:00:00.000000Z",
        "details": '{"x"\\:1}',
    }.get(column, "mallory")
    tamper(filled, f"UPDATE audit_log SET {column} = '{value}' WHERE seq = 5")
    assert_broken(verify(filled), Damage.CHANGED, 5, "mallory" if column == "id" else "event-5")


def test_details_reformatted_without_changing_their_meaning_are_a_change_too(filled: Ledger) -> None:
    tamper(filled, "UPDATE audit_log SET details = '{ }' WHERE seq = 5")
    assert_broken(verify(filled), Damage.CHANGED, 5, "event-5")


def test_a_changed_row_that_was_hashed_again_is_named(filled: Ledger) -> None:
    forged = forge(filled, 5, fitting=True)
    tamper(filled, "DELETE FROM audit_log WHERE seq = 5", forged)
    assert_broken(verify(filled), Damage.CHANGED, 5, "forged")


def test_a_deleted_row_is_named(filled: Ledger) -> None:
    tamper(filled, "DELETE FROM audit_log WHERE seq = 5")
    assert_broken(verify(filled), Damage.MISSING, 5, None)


def test_several_deleted_rows_are_named(filled: Ledger) -> None:
    tamper(filled, "DELETE FROM audit_log WHERE seq BETWEEN 5 AND 7")
    found = verify(filled)
    assert_broken(found, Damage.MISSING, 5, None)
    assert found.problem is not None
    assert "rows 5 to 7 are gone" in found.problem.sentence


def test_the_first_row_deleted_is_named(filled: Ledger) -> None:
    tamper(filled, "DELETE FROM audit_log WHERE seq = 1")
    assert_broken(verify(filled), Damage.MISSING, 1, None)


def test_a_deleted_row_is_named_though_the_others_were_renumbered(filled: Ledger) -> None:
    tamper(filled, "DELETE FROM audit_log WHERE seq = 5", *renumber_from(6, -1))
    assert_broken(verify(filled), Damage.MISSING, 5, None)


def test_an_inserted_row_that_fits_is_named(filled: Ledger) -> None:
    tamper(filled, *renumber_from(5, 1), forge(filled, 5, fitting=True))
    assert_broken(verify(filled), Damage.INSERTED, 5, "forged")


def test_an_inserted_row_that_does_not_fit_is_named(filled: Ledger) -> None:
    tamper(filled, *renumber_from(5, 1), forge(filled, 5, fitting=False))
    assert_broken(verify(filled), Damage.INSERTED, 5, "forged")


def test_a_row_before_the_first_is_named(filled: Ledger) -> None:
    tamper(filled, forge(filled, 0, fitting=False))
    assert_broken(verify(filled), Damage.INSERTED, 0, "forged")


def test_a_second_row_of_the_same_number_is_named(filled: Ledger) -> None:
    if filled.engine.dialect.name == "sqlite":
        drop = [
            "CREATE TABLE loose AS SELECT * FROM audit_log",
            "DROP TABLE audit_log",
            "ALTER TABLE loose RENAME TO audit_log",
        ]
    else:
        drop = ["ALTER TABLE audit_log DROP CONSTRAINT audit_log_pkey"]
    tamper(filled, *drop, forge(filled, 5, fitting=True))
    assert_broken(verify(filled), Damage.INSERTED, 5, "forged")


@pytest.mark.parametrize(("one", "other"), [(5, 6), (5, 9), (1, ROWS)])
def test_swapped_rows_are_named(filled: Ledger, one: int, other: int) -> None:
    tamper(
        filled,
        f"UPDATE audit_log SET seq = {MOVED} WHERE seq = {one}",
        f"UPDATE audit_log SET seq = {one} WHERE seq = {other}",
        f"UPDATE audit_log SET seq = {other} WHERE seq = {MOVED}",
    )
    found = verify(filled)
    assert_broken(found, Damage.REORDERED, one, f"event-{other}")
    assert found.problem is not None
    assert f"row {one} was written as row {other}" in found.problem.sentence


def test_a_cut_tail_is_named_against_a_checkpoint(filled: Ledger) -> None:
    seen = checkpoint(filled)
    tamper(filled, "DELETE FROM audit_log WHERE seq > 9")
    assert verify(filled).whole, "nothing in the table itself can show it"
    found = verify(filled, checkpoints=[seen])
    assert_broken(found, Damage.TAIL_CUT, 10, None)
    assert found.problem is not None
    assert f"rows 10 to {ROWS} are gone" in found.problem.sentence


def test_everything_cut_is_named_against_a_checkpoint(filled: Ledger) -> None:
    seen = checkpoint(filled)
    tamper(filled, "DELETE FROM audit_log")
    assert_broken(verify(filled, checkpoints=[seen]), Damage.TAIL_CUT, 1, None)
    assert_broken(verify(filled, start=seen), Damage.TAIL_CUT, ROWS, None)


def test_a_tail_cut_and_grown_again_is_named_against_a_checkpoint(filled: Ledger) -> None:
    seen = checkpoint(filled)
    tamper(filled, "DELETE FROM audit_log WHERE seq > 9")
    other = Ledger.connect(filled.engine.url.render_as_string(hide_password=False))
    other.append([AuditRecord(action="X", source="cli", id=f"new-{n}") for n in range(5)])
    other.close()
    assert_broken(verify(filled, checkpoints=[seen]), Damage.CHANGED, ROWS, "new-2")
    assert_broken(verify(filled, start=seen), Damage.CHANGED, ROWS, "new-2")


def test_a_tail_cut_under_a_living_writer_shows_without_a_checkpoint(postgres_url: str) -> None:
    """The writer knows the row that it wrote last, so what it writes next leaves a gap."""
    ledger = Ledger.connect(postgres_url)
    upgrade(ledger)
    for number in range(1, 6):
        ledger.append([AuditRecord(action="X", source="cli", id=f"event-{number}")])
    other = Ledger.connect(postgres_url)
    tamper(other, "DELETE FROM audit_log WHERE seq > 3")
    other.close()
    ledger.append([AuditRecord(action="X", source="cli", id="event-6")])
    assert_broken(verify(ledger), Damage.MISSING, 4, None)
    ledger.close()


def test_a_walk_from_a_checkpoint_reads_only_what_is_new(filled: Ledger) -> None:
    seen = checkpoint(filled)
    filled.append([AuditRecord(action="X", source="cli", id="new")])
    found = verify(filled, start=seen)
    assert found.whole
    assert (found.rows, found.seq) == (2, ROWS + 1)
    tamper(filled, f"UPDATE audit_log SET user_id = 'mallory' WHERE seq = {ROWS}")
    assert_broken(verify(filled, start=seen), Damage.CHANGED, ROWS, f"event-{ROWS}")


def test_without_the_key_a_chain_of_hmacs_can_be_neither_verified_nor_forged(database_url: str) -> None:
    key = SecretStr("a key that is not in the database")
    ledger = Ledger.connect(database_url, key=key)
    upgrade(ledger)
    ledger.append([AuditRecord(action="X", source="cli", id=f"event-{n}") for n in range(1, 6)])
    assert verify(ledger, key=key).whole
    assert_broken(verify(ledger), Damage.CHANGED, 1, "event-1")
    tamper(ledger, forge(ledger, 6, fitting=True))
    assert_broken(verify(ledger, key=key), Damage.CHANGED, 6, "forged")
    ledger.close()
