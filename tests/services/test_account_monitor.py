"""Whoever watches over the breakers monitors the accounts too, unless told not to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from breaker import CircuitBreaker
from configuration.accounts import AccountSettings
from configuration.monitor import MonitorSettings
from configuration.settings import GivenSettings
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from services.watches import watching
from tasks.monitor.measurements import measurements_key
from tests.helpers import eventually


@pytest.fixture
def exchange() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread(parse("rate_limit = 100000\naccount.equity = 100000\n")) as exchange:
        yield exchange


@pytest.mark.parametrize("enabled", [True, False])
def test_services_monitor_the_accounts(
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    tmp_path: Path,
    exchange: PaperExchangeThread,
    enabled: bool,
) -> None:
    CircuitBreaker(redis_client).initialize_state()
    account = AccountSettings(base_url=exchange.url, key_id=SecretStr("key"), secret_key=SecretStr("secret"))
    settings = GivenSettings(
        redis_url=SecretStr(redis_server.url),
        state_dir=tmp_path,
        accounts={"ALPHA": account},
        monitor=MonitorSettings(enabled=enabled),
    )
    with watching(settings):
        assert ("account monitor" in {thread.name for thread in threading.enumerate()}) is enabled
        if enabled:
            eventually(lambda: redis_client.xlen(measurements_key("ALPHA")))
    assert "account monitor" not in {thread.name for thread in threading.enumerate()}
