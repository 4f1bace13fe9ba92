"""The ledger as the configuration names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from breaker.settings import Settings
from ledger.configured import database_url, open_checkpoints, open_ledger, open_recorder, open_spool
from ledger.record import AuditRecord
from ledger.recorder import Where
from ledger.schema import upgrade


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("BREAKER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("BREAKER_CONFIG", str(tmp_path / "none.toml"))
    return Settings()


def test_without_a_database_everything_lives_in_the_state_directory(settings: Settings, tmp_path: Path) -> None:
    recorder = open_recorder(settings)
    assert recorder.record(AuditRecord(action="X", source="cli", id="a")).where is Where.SPOOL
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
