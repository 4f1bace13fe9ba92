"""A test that takes `database_url` or `ledger` runs on PostgreSQL and on SQLite, each in a database of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.ledger import Ledger
from ledger.schema import upgrade
from tests.ledger.servers import Postgres

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """The session's server. A test that stops it has to start it again."""
    server = Postgres(tmp_path_factory.mktemp("postgres") / "data")
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["postgresql", "sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'audit.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = f"ledger_{next(_numbers)}"
    yield server.create_database(name)
    server.drop_database(name)


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """An empty database on PostgreSQL, for what only it can do."""
    name = f"ledger_{next(_numbers)}"
    yield postgres.create_database(name)
    postgres.drop_database(name)


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """A migrated, empty ledger."""
    opened = Ledger.connect(database_url)
    upgrade(opened)
    yield opened
    opened.close()
