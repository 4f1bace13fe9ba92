"""Serve the gateway of one account until SIGTERM or Ctrl-C; requests under way are brought to their end."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
import sys
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import httpx
import uvicorn

from breaker.engines import RulesFeed
from breaker.gate import Gate, QuietPeriodLimits
from breaker.rules import Rules
from brokers.alpaca import AlpacaBroker, from_settings
from configuration.addresses import is_loopback
from configuration.breakers import limits_from
from configuration.monitor import monitored_scope
from configuration.redis_clients import redis_client
from configuration.running import RunningConfiguration
from configuration.settings import ConfigurationError, Settings
from services.gateway.gatekeeper import RESERVE_BESIDE, Gatekeeper
from services.gateway.proxy import Gateway, Venue
from tasks.running_services import GATEWAY, reported

PORT = 8510
_OPENS_WITHIN = 1.0
"""Seconds that the gate gets to open before the first request is taken; it is closed until it has."""


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """What is asked for on the command line.

    Attributes:
        account: Of the configuration; its only one unless given.
        host: Where to listen.
        port: 0 for a free one.
        strategy: Whose orders all of them are.
        scopes: Further breakers that hold them, such as `symbol:TSLA`.
        normal_quantity: The normal size of an order by symbol, for quiet periods; `*` for any other.
        tls_certificate: The file of a certificate, with `tls_key`.
        tls_key: The file of its key.
    """

    account: str | None = None
    host: str = "127.0.0.1"
    port: int = PORT
    strategy: str | None = None
    scopes: tuple[str, ...] = ()
    normal_quantity: Mapping[str, Decimal] = field(default_factory=dict)
    tls_certificate: Path | None = None
    tls_key: Path | None = None


def serve_gateway(running: RunningConfiguration, options: GatewayOptions) -> None:
    """Raises ConfigurationError."""
    settings = running.settings
    name = _account_of(settings, options.account)
    _check_address(options)
    listener = _listen(options)
    with contextlib.closing(listener), reported(GATEWAY, running):
        asyncio.run(_serve(settings, name, options, listener))


@contextlib.asynccontextmanager
async def open_gateway(
    settings: Settings,
    name: str,
    strategy: str | None = None,
    normal_quantity: Mapping[str, Decimal] | None = None,
    further_scopes: Sequence[str] = (),
) -> AsyncIterator[Gateway]:
    """The application, with its gate and its connections open."""
    account = settings.accounts[name]
    broker = from_settings(name, account)
    scopes = [f"account:{name}", *([f"strategy:{strategy}"] if strategy else []), *further_scopes]
    scope = monitored_scope(name, settings.accounts)
    # The event loop is busy with orders, and `drain` does not depend on a thread getting its turn.
    gate = Gate(
        settings.redis_address.get_secret_value(),
        scopes=scopes,
        backend="drain",
        quiet_limits=QuietPeriodLimits(normal_quantity=dict(normal_quantity or {})),
        pending_trips=settings.pending_trips_dir,
        reserve_for=RESERVE_BESIDE + account.request_timeout,  # its answer may take as long as that
    )
    rules = Rules(redis_client(settings), scope, limits=limits_from(settings, scope), timeout=settings.redis_timeout)
    feed = RulesFeed(rules, name)
    gateway = Gateway(
        Venue(
            name,
            strategy,
            account.key_id.get_secret_value() if account.key_id else "",
            _without_version(account.base_url or ""),
            broker.data_url if isinstance(broker, AlpacaBroker) else "",
            account.request_timeout,
        ),
        Gatekeeper(gate, broker, account.request_timeout),
        feed,
    )
    try:
        await gate.wait_until_open_async(_OPENS_WITHIN)
        yield gateway
    finally:
        await gateway.aclose()
        await broker.aclose()
        gate.close()
        await asyncio.to_thread(feed.close)
        rules.close()


async def _serve(settings: Settings, name: str, options: GatewayOptions, listener: socket.socket) -> None:
    async with open_gateway(settings, name, options.strategy, options.normal_quantity, options.scopes) as gateway:
        config = uvicorn.Config(
            gateway,
            ssl_certfile=options.tls_certificate,
            ssl_keyfile=None if options.tls_key is None else str(options.tls_key),
            lifespan="off",
            ws="none",
            log_level="critical",  # the gateway tells what went wrong itself, on a line
            access_log=False,
            server_header=False,
            date_header=False,  # the venue's is passed on
            proxy_headers=False,
            timeout_keep_alive=75,
            # For its body, for what the account holds (two readings), and for the answer.
            timeout_graceful_shutdown=math.ceil(4 * settings.accounts[name].request_timeout) + 1,
            backlog=1024,
        )
        scheme = "https" if options.tls_certificate else "http"
        venue = httpx.URL(settings.accounts[name].base_url or "").host
        host, port = listener.getsockname()[:2]
        where = f"[{host}]" if ":" in host else host
        sys.stderr.write(f"gateway: {scheme}://{where}:{port} guards account {name} at {venue}\n")
        sys.stderr.flush()
        await _Server(config).serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Ends in order and with status 0 when it is told to; uvicorn's own would raise the signal once more."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def _account_of(settings: Settings, name: str | None) -> str:
    known = ", ".join(sorted(settings.accounts)) or "none"
    if name is None and len(settings.accounts) != 1:
        raise ConfigurationError(f"say which account the gateway guards; configured are: {known}. Nothing was started")
    name = name or next(iter(settings.accounts))
    if name not in settings.accounts:
        raise ConfigurationError(f"no account {name} is configured, only: {known}. Nothing was started")
    if settings.accounts[name].adapter != "alpaca":
        raise ConfigurationError(
            f"accounts.{name} is reached through {settings.accounts[name].adapter}; the gateway speaks Alpaca's API "
            "only. Nothing was started"
        )
    return name


def _check_address(options: GatewayOptions) -> None:
    if bool(options.tls_certificate) != bool(options.tls_key):
        raise ConfigurationError("--tls-certificate and --tls-key belong together; nothing was started")
    if options.tls_certificate is None and not is_loopback(options.host):
        raise ConfigurationError(
            f"{options.host} is not this machine alone, so the account's keys would travel unencrypted; nothing was "
            "started. Give --tls-certificate and --tls-key, or run a gateway on each engine's host"
        )
    for path in (options.tls_certificate, options.tls_key):
        if path is not None and not path.is_file():
            raise ConfigurationError(f"{path} can't be read; nothing was started")


def _listen(options: GatewayOptions) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        # With its protocol named, asyncio turns Nagle's algorithm off.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigurationError(
            f"port {options.port} of {options.host} can't be had ({error.strerror}); nothing was started. Stop what "
            "listens there, or give another --port"
        ) from None
    return listener


def _without_version(base_url: str) -> str:
    return base_url.rstrip("/").removesuffix("/v2")
