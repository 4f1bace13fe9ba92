"""The migrations: from nothing, from the first one, by program and by command."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

import ledger as package
from ledger.ledger import Ledger
from ledger.models import audit_log, metadata
from ledger.queries import Filter
from ledger.record import AuditRecord
from ledger.schema import upgrade
from ledger.verify import verify

FOLDER = Path(package.__file__).parent


def version(ledger: Ledger) -> str:
    with ledger.engine.connect() as connection:
        return str(connection.execute(text("SELECT version_num FROM audit_log_version")).scalar_one())


def test_from_nothing_and_again(database_url: str) -> None:
    ledger = Ledger.connect(database_url)
    upgrade(ledger)
    upgrade(ledger)
    assert version(ledger) == "0004"
    ledger.close()


def test_from_the_first_migration_with_rows_in_it(database_url: str) -> None:
    ledger = Ledger.connect(database_url)
    upgrade(ledger, "0001")
    ledger.append([AuditRecord(action="ORDERS_CANCELED", source="flow", id="a")])
    upgrade(ledger)
    ledger.append([AuditRecord(action="ORDERS_CANCELED", source="flow", id="b")])
    assert verify(ledger).rows == 2
    with pytest.raises(DBAPIError, match="append-only"), ledger.engine.begin() as connection:
        connection.execute(text("DELETE FROM audit_log"))
    ledger.close()


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (Filter(user_id="nobody"), "audit_log_user"),
        (Filter(outcome="NEVER"), "audit_log_outcome"),
        (Filter(actions=("NEVER",)), "audit_log_action"),
    ],
)
def test_a_value_that_no_row_has_is_not_looked_for_in_all_rows(ledger: Ledger, wanted: Filter, index: str) -> None:
    columns = audit_log.c
    rows = select(columns.seq).where(*wanted.conditions()).order_by(columns.timestamp.desc(), columns.seq.desc())
    explain = "EXPLAIN QUERY PLAN" if ledger.engine.dialect.name == "sqlite" else "EXPLAIN"
    said = str(rows.limit(51).compile(ledger.engine, compile_kwargs={"literal_binds": True}))
    with ledger.engine.connect() as connection:
        if ledger.engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # few rows are read faster without any index
        plan = "\n".join(str(tuple(row)) for row in connection.exec_driver_sql(f"{explain} {said}"))
    assert index in plan


def test_the_migrations_make_what_the_models_say(ledger: Ledger) -> None:
    with ledger.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "audit_log_version"})
        differences = compare_metadata(context, metadata)
    assert differences == []


def test_several_hosts_may_upgrade_at_once(database_url: str) -> None:
    def run(_: int) -> str:
        ledger = Ledger.connect(database_url, timeout=20)
        upgrade(ledger)
        found = version(ledger)
        ledger.close()
        return found

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, range(3))) == ["0004"] * 3


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "alembic", "-c", str(FOLDER / "alembic.ini"), "upgrade", "head"],
        [sys.executable, "-m", "ledger", "upgrade"],
    ],
    ids=["alembic", "python -m ledger"],
)
def test_from_the_shell(database_url: str, command: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "BREAKER_DATABASE_URL": database_url}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    ledger = Ledger.connect(database_url)
    assert version(ledger) == "0004"
    ledger.close()


def test_an_unreachable_database_is_one_line_on_stderr(tmp_path: Path) -> None:
    url = "postgresql://breaker:geheim@127.0.0.1:1/audit"
    command = [sys.executable, "-m", "ledger", "upgrade", "--url", url]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "geheim" not in done.stderr


def test_a_user_who_may_not_create_roles_can_migrate_all_the_same(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = postgres_url.rsplit("/", 1)[1]
    with psycopg2.connect(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_roles WHERE rolname = 'breaker_audit'")
        found = cursor.fetchone()
        cursor.execute("DROP ROLE IF EXISTS modest")
        cursor.execute("CREATE ROLE modest LOGIN")
        cursor.execute(f"GRANT ALL ON DATABASE {name} TO modest; GRANT ALL ON SCHEMA public TO modest")
    connection.close()
    ledger = Ledger.connect(postgres_url.replace("postgres@", "modest@"))
    upgrade(ledger)
    assert version(ledger) == "0004"
    assert found is not None
    assert found[0] == 1 or "breaker_audit was not created" in caplog.text
    ledger.close()
