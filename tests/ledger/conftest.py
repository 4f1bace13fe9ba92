"""A test that takes `ledger` runs on PostgreSQL and on SQLite, each in a database of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ledger.ledger import Ledger
from ledger.schema import upgrade


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """A migrated, empty ledger."""
    opened = Ledger.connect(database_url)
    upgrade(opened)
    yield opened
    opened.close()
