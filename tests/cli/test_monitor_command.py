"""`breaker monitor` as two processes: one dies by SIGKILL, the other goes on, and nothing counts twice."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import redis

from breaker import CircuitBreaker
from proofs.fork_server import Forked, ForkServer
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tasks.monitor.leases import lease_key, lease_of_account
from tasks.monitor.measurements import measurements_key, read_measurement
from tests.cli.conftest import RunCli, WriteConfiguration
from tests.helpers import BUSY, eventually

LEASE = lease_key(lease_of_account("ALPHA"))
MEASURED = measurements_key("ALPHA")


@pytest.mark.usefixtures("no_orchestrator")
def test_another_process_takes_over_within_ten_seconds_of_a_kill(
    redis_server: object,
    redis_client: redis.Redis,
    write_configuration: WriteConfiguration,
    environment: dict[str, str],
    fork_server: ForkServer,
) -> None:
    book = (
        'rate_limit = 100000\naccount.equity = 100000\nprices.AAPL = 200\n[[positions]]\nsymbol = "AAPL"\nqty = 100\n'
    )
    with PaperExchangeThread(parse(book)) as exchange:
        write_configuration(
            f'redis_url = "{redis_server.url}"\n'  # type: ignore[attr-defined]
            "[monitor]\ninterval = 0.3\n"
            "[rules.global.confirmations]\nDRAWDOWN = 1000\n"
            f'[accounts.ALPHA]\nbase_url = "{exchange.url}"\nkey_id = "key"\nsecret_key = "secret"\n'
            "requests_per_minute = 100000\n"
        )
        CircuitBreaker(redis_client).initialize_state()
        running: list[Forked] = []
        try:
            running += [fork_server.start("cli", "monitor", env=environment) for _ in range(2)]
            eventually(lambda: redis_client.xlen(MEASURED) > 3)
            first = json.loads(redis_client.get(LEASE) or "{}")["pid"]
            exchange.control("price", {"symbol": "AAPL", "price": "140"})
            dies = next(each for each in running if each.pid == first)
            dies.kill()
            dies.wait(30)
            before = redis_client.xlen(MEASURED)
            eventually(lambda: redis_client.xlen(MEASURED) > before + 3)
            assert json.loads(redis_client.get(LEASE) or "{}")["pid"] != first
        finally:
            for each in running:
                each.terminate()
            for each in running:
                assert each.wait(30) in (0, -9)
        measured = [read_measurement(entry) for entry in redis_client.xrange(MEASURED) or []]
        gaps = [(later - earlier).total_seconds() for (earlier, _), (later, _) in pairwise(measured)]
        assert min(gaps) > 0 and max(gaps) < 10 + BUSY
        # Beyond the limit each counts once towards the confirmations: as many as there are measurements, or one more,
        # in the middle of which the first one died.
        lost = sum(fields["equity"] == "94000.00" for _, fields in measured)
        confirmed = int((redis_client.hget("circuit_breaker:confirmations", "DRAWDOWN") or b"0 -").split()[0])
        assert lost - 1 <= confirmed <= lost
        assert not CircuitBreaker(redis_client).is_tripped()
    assert not redis_client.exists(LEASE), "whoever ends in order lets another one begin at once"


@pytest.mark.usefixtures("configured", "no_orchestrator")
def test_without_anything_to_monitor_it_says_so(breaker_cli: RunCli) -> None:
    said = breaker_cli("monitor")
    assert said.returncode == 2
    assert "neither an account nor a feed is configured" in said.stderr and said.stderr.count("\n") == 1
