"""A gateway in this process, between whoever asks and a paper exchange."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import uvicorn
from pydantic import SecretStr

from breaker import CircuitBreaker
from configuration.accounts import AccountSettings
from configuration.settings import GivenSettings, Settings
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread, listen
from services.gateway.serve import open_gateway
from tests.helpers import eventually

BOOK = """
[[positions]]
symbol = "AAPL"
qty = "100"
price = "200"

[[positions]]
symbol = "BTCUSD"
qty = "2"
price = "60000"
"""
KEYS = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}


@pytest.fixture
def exchange() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread(parse(BOOK)) as server:
        yield server


@pytest.fixture
def breaker(redis_client: redis.Redis) -> Iterator[CircuitBreaker]:
    cb = CircuitBreaker(redis_client, quiet_period=0, reset_interval=0)
    cb.initialize_state()
    yield cb
    cb.close()


def settings_of(folder: Path, redis_url: str, venue_url: str, **more: Any) -> Settings:
    account = AccountSettings(
        base_url=venue_url, key_id=SecretStr("key"), secret_key=SecretStr("secret"), request_timeout=2.0
    )
    url = SecretStr(redis_url)
    return GivenSettings(redis_url=url, state_dir=folder, accounts={"ALPHA": account}, redis_timeout=2.0, **more)


class ServedGateway:
    """On a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._listener = listen()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        async with open_gateway(self._settings, "ALPHA") as gateway:
            config = uvicorn.Config(
                gateway, lifespan="off", ws="none", log_level="critical", access_log=False, date_header=False,
                timeout_graceful_shutdown=5,
            )  # fmt: skip
            self._server = uvicorn.Server(config)
            await self._server.serve(sockets=[self._listener])

    def __enter__(self) -> ServedGateway:
        self._thread.start()
        eventually(lambda: self._server is not None and self._server.started)
        return self

    def __exit__(self, *failure: object) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(20)


@pytest.fixture
def gateway(
    tmp_path: Path, redis_server: EmbeddedRedis, breaker: CircuitBreaker, exchange: PaperExchangeThread
) -> Iterator[httpx.Client]:
    with (
        ServedGateway(settings_of(tmp_path, redis_server.url, exchange.url)) as served,
        httpx.Client(base_url=served.url, headers=KEYS, timeout=20) as client,
    ):
        eventually(lambda: client.get("/_breaker/health").json()["is_open"])
        yield client
