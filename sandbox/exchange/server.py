"""Run the paper exchange: in this process, on a thread, or as a child process that dies with its parent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from sandbox.child_process import end, spawn
from sandbox.exchange.acceptance import Acceptance
from sandbox.exchange.alpaca.conventions import ALPACA
from sandbox.exchange.alpaca.routes import add_alpaca_routes
from sandbox.exchange.binance.acceptance import FuturesAcceptance, SpotAcceptance
from sandbox.exchange.binance.conventions import BINANCE_FUTURES, BINANCE_SPOT
from sandbox.exchange.binance.routes import add_binance_routes
from sandbox.exchange.control import add_control_routes
from sandbox.exchange.edge import Disconnect, Edge
from sandbox.exchange.scenario import Protocol, Scenario
from sandbox.exchange.tws.control import add_tws_control_routes
from sandbox.exchange.tws.server import TwsServer
from sandbox.exchange.venue import Host

_RULES: Final = {
    Protocol.ALPACA: Acceptance,
    Protocol.BINANCE_SPOT: SpotAcceptance,
    Protocol.BINANCE_FUTURES: FuturesAcceptance,
}
_START_LIMIT: Final = 20.0
_STOP_LIMIT: Final = 5.0


class PaperExchangeFailed(RuntimeError):
    """The exchange could not be started or reached; one line."""


def listen(port: int = 0, host: str = "127.0.0.1") -> socket.socket:
    """A listening socket, on the loopback interface unless told; port 0 takes a free one. Raises `OSError` when it's
    taken.
    """
    # With its protocol named, asyncio turns Nagle's algorithm off: answers had waited 40 ms for an acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


class _Server(uvicorn.Server):
    """Serves the TWS API beside HTTP, in the same loop and on the same book."""

    def __init__(self, config: uvicorn.Config, tws: TwsServer, tws_listener: socket.socket | None) -> None:
        super().__init__(config)
        self._tws = tws
        self._tws_listener = tws_listener

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._tws_listener is not None:
            await self._tws.start(self._tws_listener)
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._tws.stop()
        await super().shutdown(sockets)


def build_server(scenario: Scenario, tws_listener: socket.socket | None = None) -> uvicorn.Server:
    """A uvicorn server for this scenario, ready to be given a listening socket; with `tws_listener` it speaks the TWS
    API there.
    """
    connections: dict[tuple[str, int], asyncio.Transport] = {}

    class Protocol(H11Protocol):
        """Remembers each connection, so that trouble can drop it without an answer."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if self.client:
                connections[self.client] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            if self.client:
                connections.pop(self.client, None)
            super().connection_lost(exc)

    def disconnect(scope: Scope) -> None:
        if (transport := connections.get(tuple(scope["client"]))) is not None:
            transport.abort()

    host = Host(scenario, _RULES)
    tws = TwsServer(host)
    return _Server(
        uvicorn.Config(
            _create_app(host, tws, disconnect),
            http=Protocol,
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        ),
        tws,
        tws_listener,
    )


def _create_app(host: Host, tws: TwsServer, disconnect: Disconnect) -> ASGIApp:
    app = FastAPI(title="Paper exchange", openapi_url=None)
    add_alpaca_routes(app, host)
    add_binance_routes(app, host)
    add_control_routes(app, host)
    add_tws_control_routes(app, tws)
    return Edge(app, host, (ALPACA, BINANCE_SPOT, BINANCE_FUTURES), disconnect)


def serve(scenario: Scenario, listener: socket.socket, tws_listener: socket.socket | None = None) -> None:
    """Serve until SIGINT or SIGTERM."""
    build_server(scenario, tws_listener).run(sockets=[listener])


class _ControlClient:
    """What tests and demos ask of a running exchange, apart from trading on it."""

    url: str

    def report(self) -> dict[str, Any]:
        """What the venue saw so far (`/_paper/report`)."""
        return dict(json.loads(self._request("GET", "/_paper/report")))

    def control(self, path: str, body: Mapping[str, object] | None = None, method: str = "POST") -> None:
        """Call a control endpoint, e.g. `control("halt", {"symbol": "AAPL"})`."""
        self._request(method, f"/_paper/{path}", json.dumps(body or {}).encode())

    def restart(self, scenario: Scenario) -> None:
        """Start over with another scenario on the same port, in a few milliseconds."""
        self._request("POST", "/_paper/scenario", scenario.model_dump_json(exclude_defaults=True).encode())

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(  # noqa: S310 - our own loopback address
            self.url + path, body, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            raise PaperExchangeFailed(f"{method} {path} was refused: {error.read().decode()}") from error
        except OSError as error:
            raise PaperExchangeFailed(f"paper exchange at {self.url} cannot be reached: {error}") from error


class PaperExchange(_ControlClient):
    """The exchange in a child process on a free loopback port; it ends with `stop()`, and with its parent (Linux)."""

    def __init__(
        self, scenario: Scenario | None = None, *, port: int = 0, host: str = "127.0.0.1", tws_port: int | None = None
    ) -> None:
        self._scenario = scenario or Scenario()
        self.tws_port = tws_port
        """Where it speaks the TWS API; 0 takes a free port, None speaks it nowhere."""
        self._host = host
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> Self:
        """Start it and wait until it answers. Raises `PaperExchangeFailed`."""
        try:
            listener = listen(self._port, self._host)
        except OSError as error:
            raise PaperExchangeFailed(f"paper exchange cannot listen on port {self._port}: {error}") from error
        with listener, self._tws_listener() as tws, tempfile.TemporaryFile() as scenario:
            self.url = f"http://{self._host}:{listener.getsockname()[1]}"
            scenario.write(self._scenario.model_dump_json(exclude_defaults=True).encode())
            scenario.seek(0)
            with os.fdopen(os.dup(2), "wb") as our_stderr:
                passed = [each.fileno() for each in (listener, tws) if each is not None]
                self._process = spawn(
                    [sys.executable, "-m", "sandbox.exchange", "--listeners", ",".join(map(str, passed))],
                    output=our_stderr,
                    stdin=scenario,
                    pass_fds=passed,
                    cwd=Path(__file__).parents[2],
                )
        self._wait_until_it_answers()
        return self

    def _tws_listener(self) -> socket.socket | contextlib.nullcontext[None]:
        if self.tws_port is None:
            return contextlib.nullcontext()
        try:
            tws = listen(self.tws_port, self._host)
        except OSError as error:
            raise PaperExchangeFailed(f"the TWS API cannot listen on port {self.tws_port}: {error}") from error
        self.tws_port = tws.getsockname()[1]
        return tws

    def stop(self) -> None:
        """End it; doing so twice is fine."""
        process, self._process = self._process, None
        if process is not None:
            end(process, within=_STOP_LIMIT)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise PaperExchangeFailed("the paper exchange is not running")
        return self._process.pid

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _wait_until_it_answers(self) -> None:
        # The socket listens already, so the first request waits in its queue until the server takes it.
        assert self._process is not None  # noqa: S101
        deadline = time.monotonic() + _START_LIMIT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise PaperExchangeFailed(f"paper exchange ended at its start with code {self._process.returncode}")
            with contextlib.suppress(PaperExchangeFailed):
                self.report()
                return
        self.stop()
        raise PaperExchangeFailed(f"paper exchange did not answer within {_START_LIMIT:g} s")


class PaperExchangeThread(_ControlClient):
    """The exchange on a thread of this process: starts in milliseconds, for tests that need many."""

    def __init__(self, scenario: Scenario | None = None) -> None:
        self._listener, self._tws_listener = listen(), listen()
        self._server = build_server(scenario or Scenario(), self._tws_listener)
        self.tws_port: int = self._tws_listener.getsockname()[1]
        """Where it speaks the TWS API."""
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets=[self._listener])), name="paper-exchange", daemon=True
        )

    def start(self) -> Self:
        self._thread.start()
        self.report()
        return self

    def stop(self) -> None:
        """Close every connection and end the thread."""
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(_STOP_LIMIT)
        self._listener.close()
        self._tws_listener.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
