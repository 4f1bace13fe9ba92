"""Prepare the database, make the first admin and serve the console: `python -m console`, `breaker console`."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import uvicorn

from breaker import BreakerError
from configuration.addresses import is_loopback
from configuration.console import ConsoleSettings
from configuration.orchestrator import set_prefect_timeouts
from configuration.running import RunningConfiguration
from configuration.settings import ConfigurationError, Settings
from console.app import Application, create_app
from console.auth.identities import Identities
from console.auth.passwords import random_password
from console.auth.permissions import Role
from console.auth.schema import upgrade
from ledger.configured import open_ready_ledger
from ledger.errors import LedgerError
from tasks.running_services import reported

FIRST_ADMIN = "admin"
SHUTDOWN = 3
"""Seconds that pages which listen get to end."""


def prepare(settings: Settings) -> str | None:
    """Bring the tables to this version's form. Returns the first admin's password if there was no user yet.

    Raises:
        LedgerError: the database can't be reached.
    """
    ledger = open_ready_ledger(settings)
    try:
        upgrade(ledger)
        identities = Identities(ledger)
        if identities.users.all():
            return None
        password = random_password()
        identities.users.add(FIRST_ADMIN, Role.ADMIN, password)
        return password
    finally:
        ledger.close()


def check_address(where: ConsoleSettings) -> None:
    """Raises ConfigurationError where passwords would travel unencrypted."""
    if bool(where.tls_certificate) != bool(where.tls_key):
        raise ConfigurationError("console.tls_certificate and console.tls_key belong together; nothing was started")
    if where.tls_certificate or where.trusted_proxies or is_loopback(where.host):
        return
    raise ConfigurationError(
        f"console.host is {where.host}, not this machine alone, so passwords would travel unencrypted; nothing was "
        "started. Set console.tls_certificate and console.tls_key, or console.trusted_proxies where a proxy ends TLS"
    )


class Server(uvicorn.Server):
    """Ends the streams of events first when it stops, so that it doesn't have to wait for the pages that listen."""

    def __init__(self, config: uvicorn.Config, application: Application) -> None:
        super().__init__(config)
        self._application = application

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._application.end_streams()
        await super().shutdown(sockets)


def server(running: RunningConfiguration) -> Server:
    """A server for the configured address, not started."""
    where, application = running.settings.console, create_app(running)
    return Server(
        uvicorn.Config(
            application.asgi,
            host=where.host,
            port=where.port,
            ssl_certfile=_text(where.tls_certificate),
            ssl_keyfile=_text(where.tls_key),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="on",
            timeout_graceful_shutdown=SHUTDOWN,
            timeout_keep_alive=75,
            backlog=1024,
        ),
        application,
    )


def main() -> int:
    """Serve until interrupted. Returns the exit status."""
    set_prefect_timeouts("service")
    try:
        running = RunningConfiguration.load()
        settings = running.settings
        check_address(settings.console)
        password = prepare(settings)
    except (BreakerError, LedgerError) as error:
        sys.stderr.write(f"console: {error}\n")
        return 2
    where = settings.console
    scheme = "https" if where.tls_certificate else "http"
    if password is not None:
        sys.stderr.write(f"console: first start: sign in as {FIRST_ADMIN} with {password}  (shown this once)\n")
    sys.stderr.write(f"console: {scheme}://{where.host}:{where.port}\n")
    try:
        with reported("console", running):
            asyncio.run(server(running).serve())
    except KeyboardInterrupt:
        return 0
    return 0


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
