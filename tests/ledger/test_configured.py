"""The ledger as the configuration names it."""

from __future__ import annotations

import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from configuration.settings import Settings
from ledger.configured import (
    open_checkpoints,
    open_ledger,
    open_ready_ledger,
    open_recorder,
    open_spool,
)
from ledger.errors import LedgerUnavailable
from ledger.location import configured_place, database_url
from ledger.record import AuditRecord
from ledger.recorder import Destination
from ledger.schema import upgrade


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("BREAKER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("BREAKER_CONFIG", str(tmp_path / "none.toml"))
    return Settings()


def test_without_a_database_everything_lives_in_the_state_directory(settings: Settings, tmp_path: Path) -> None:
    recorder = open_recorder(settings)
    assert recorder.record(AuditRecord(action="X", source="cli", id="a")).where is Destination.SPOOL
    ledger = open_ledger(settings)
    upgrade(ledger)
    assert open_spool(settings).drain(ledger).moved == 1
    assert open_checkpoints(settings).all() == ()
    assert (tmp_path / "state" / "audit.db").is_file()
    recorder.ledger.close()
    ledger.close()


def test_a_named_database_wins(settings: Settings) -> None:
    named = settings.model_copy(update={"database_url": SecretStr("postgresql://db.example/audit")})
    assert database_url(named).get_secret_value() == "postgresql://db.example/audit"


def test_promise_8_a_ledger_that_a_killed_process_began_to_make_is_made(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "state" / "audit.db"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as begun:
        begun.execute("PRAGMA journal_mode = WAL")  # what is in the file when it dies before its first commit
    with closing(open_ready_ledger(settings)) as ledger:
        assert ledger.append([AuditRecord(action="X", source="cli", id="a")]).new == ("a",)


def test_a_file_that_is_no_ledger_is_left_as_it_is(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "state" / "audit.db"
    file.parent.mkdir()
    file.write_text("not a database, but somebody's notes" * 100)
    with closing(open_ready_ledger(settings)) as ledger, pytest.raises(LedgerUnavailable, match="not a database"):
        ledger.head()
    assert file.read_text().startswith("not a database, but somebody's notes")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://me:secret@db.example/audit", "db.example:5432/audit"),
        ("postgresql://me@b:5433,a/audit?target_session_attrs=read-write", "a:5432,b:5433/audit"),
        ("postgresql://me@a,b:5433/audit", "a:5432,b:5433/audit"),
        ("postgresql://?service=audit", "service audit/"),
    ],
)
def test_a_ledger_is_at_the_same_place_whichever_way_and_from_wherever_it_is_named(url: str, place: str) -> None:
    assert configured_place(Settings.model_validate({"database_url": url})) == place


def test_a_ledger_in_a_file_is_on_its_host(tmp_path: Path) -> None:
    assert configured_place(Settings(state_dir=tmp_path)) == f"{socket.gethostname()}:{tmp_path / 'audit.db'}"
