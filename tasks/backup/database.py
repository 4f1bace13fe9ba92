"""Copy the ledger's database by its rows, and fill an empty one with them: the same way for PostgreSQL and SQLite.

The audit log goes as `breaker audit export` writes it, with every value in the text that was hashed. The console's
tables, which this layer doesn't know, go as the database describes them. Sessions and counts of failed sign-ins are
left out: they would let somebody in again, or keep somebody out, by what was true once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, Table, insert, inspect, select, text

from ledger.export import ExportedRows, checkpoint_path, write_export
from ledger.ledger import Ledger

AUDIT_LOG = "audit_log.jsonl"
TABLES = ("console_users", "console_tokens")
"""In the order in which they refer to each other."""
VERSIONS = ("audit_log_version", "console_version")


def copy_database(ledger: Ledger, folder: Path) -> tuple[int, int, str, dict[str, int]]:
    """Write every row into `folder`. Returns rows, last number and last hash of the audit log, and rows by table.

    Raises LedgerError and OSError.
    """
    counts: dict[str, int] = {}
    for name, rows in _read_tables(ledger).items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        counts[name] = len(rows)
    export = write_export(ledger, folder / AUDIT_LOG)
    checkpoint_path(folder / AUDIT_LOG).unlink()  # the manifest has the head
    return export.rows, export.checkpoint.seq, export.checkpoint.hash, counts


def copied_rows(folder: Path) -> ExportedRows:
    """The audit log of an unpacked archive, to be verified or read."""
    return ExportedRows(folder / AUDIT_LOG)


def schema_revisions(ledger: Ledger) -> dict[str, str]:
    """Which migration each set of tables has had, by the table that says so. Raises LedgerError."""
    with ledger.explained(), ledger.connection() as connection, connection.begin():
        there = set(inspect(connection).get_table_names())
        return {
            name: str(connection.execute(text(f"SELECT version_num FROM {name}")).scalar())  # noqa: S608  our own names
            for name in VERSIONS
            if name in there
        }


def users_and_tokens(ledger: Ledger) -> dict[str, list[dict[str, Any]]]:
    """Every row of the console's tables that a backup has. Raises LedgerError."""
    return _read_tables(ledger)


def load_tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The same, of an unpacked archive. Raises ValueError."""
    return {
        name: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for name in TABLES
        if (file := folder / f"{name}.jsonl").exists()
    }


def fill_database(ledger: Ledger, folder: Path) -> int:
    """Write every row of an unpacked archive into an empty database of this version's form; returns the log's rows.

    Raises LedgerError: nothing of the audit log was written; users and tokens may have been.
    """
    found = load_tables(folder)
    with (
        ledger.explained(),
        ledger.connection() as connection,
        connection.execution_options(ledger_write=True).begin(),
    ):
        for name, table in _tables(connection).items():
            if rows := found.get(name):
                connection.execute(insert(table), rows)
    return ledger.fill(copied_rows(folder).stream())


def _read_tables(ledger: Ledger) -> dict[str, list[dict[str, Any]]]:
    with ledger.explained(), ledger.connection() as connection, connection.begin():
        return {
            name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for name, table in _tables(connection).items()
        }


def _tables(connection: Connection) -> Mapping[str, Table]:
    there = set(inspect(connection).get_table_names())
    known = MetaData()
    return {name: Table(name, known, autoload_with=connection) for name in TABLES if name in there}
