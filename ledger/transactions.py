"""Run short transactions in the ledger's database, limited in time as the ledger's own are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sqlalchemy import Connection

from ledger.ledger import Ledger


@contextlib.contextmanager
def reading(ledger: Ledger) -> Iterator[Connection]:
    """A transaction that only reads. Raises LedgerError."""
    with ledger.explained(), ledger.connection() as connection, connection.begin():
        yield connection


@contextlib.contextmanager
def writing(ledger: Ledger) -> Iterator[Connection]:
    """A transaction that takes its place among the writers at once. Raises LedgerError: nothing was written then,
    unless the connection was lost in the very commit."""
    with (
        ledger.explained(),
        ledger.connection() as connection,
        connection.execution_options(ledger_write=True).begin(),
    ):
        yield connection
