"""Say where the configured ledger is, without opening it or importing what opens it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from configuration.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import URL

    from ledger.ledger import Ledger


def database_url(settings: Settings) -> SecretStr:
    """`database_url`, or an SQLite file in the state directory."""
    return settings.database_url or SecretStr(f"sqlite:///{state_file(settings, 'audit.db')}")


def state_file(settings: Settings, name: str) -> Path:
    return settings.state_dir / name


def place_of(ledger: Ledger) -> str:
    """Where it is, without credentials; a file is on one host."""
    return _place(ledger.engine.url)


def configured_place(settings: Settings) -> str:
    """The same of the ledger that is configured."""
    from sqlalchemy import make_url  # noqa: PLC0415  slow to import, and seldom needed

    return _place(make_url(database_url(settings).get_secret_value()))


def _place(url: URL) -> str:
    if url.host is None:
        return f"{socket.gethostname()}:{url.database}"
    return f"{url.host}:{url.port or 5432}/{url.database}"
