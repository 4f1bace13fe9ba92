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
    return place_named(ledger.engine.url)


def configured_place(settings: Settings) -> str:
    """The same of the ledger that is configured. Raises LedgerError for a URL that names none."""
    from ledger.engine import parsed_url  # noqa: PLC0415  SQLAlchemy is slow to import

    return place_named(parsed_url(database_url(settings)))


def place_named(url: URL) -> str:
    """What the place is called. Of several hosts, and by whichever of them a client comes, it is one."""
    service = url.query.get("service")
    if service and url.host is None:
        return f"service {service}/{url.database or ''}"
    named = url.query.get("host") or ()
    hosts = [f"{url.host}:{url.port or 5432}"] if url.host else [named] if isinstance(named, str) else sorted(named)
    if not hosts or hosts[0].startswith("/"):  # a file, or a socket
        return f"{socket.gethostname()}:{url.database}"
    return f"{','.join(host if ':' in host else f'{host}:5432' for host in hosts)}/{url.database}"
