"""Services, queues and latencies, measured on real servers."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from breaker import CircuitBreaker
from configuration.settings import Settings
from ledger.configured import open_spool
from ledger.record import AuditRecord
from sandbox.child_process import free_port
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import NEAR, judge
from tasks.checks.system import measure_health
from tasks.recovery.checklist import ITEMS
from tests.tasks.recovery.conftest import Configure
from tests.tasks.web import Answer, Web, prometheus


async def measured(settings: Settings) -> dict[str, Measurement]:
    return {found.name: found for found in await measure_health(settings)}


async def test_with_nothing_configured_it_says_so(configure: Configure) -> None:
    found = await measured(configure())
    assert {name for name, one in found.items() if one.colour is Colour.YELLOW} == {"services", "latencies"}
    assert all(one.problem for one in found.values() if one.colour is Colour.YELLOW)
    assert {name.partition("/")[0] for name in found} <= set(ITEMS)


async def test_a_services_answer_is_its_colour(configure: Configure, web: Web) -> None:
    def answer(asked: Any) -> Answer:
        if asked.path == "/slow":
            time.sleep(0.5)
        if asked.path == "/hung":
            return Answer(wait=threading.Event())
        return Answer(503 if asked.path == "/broken" else 204)

    web.answering = answer
    names = {"ok": web.url, "slow": f"{web.url}/slow", "broken": f"{web.url}/broken", "hung": f"{web.url}/hung"}
    names["down"] = f"http://127.0.0.1:{free_port()}"
    services = {name: {"url": url, "slow_after": 0.3, "timeout": 1.2} for name, url in names.items()}
    begun = time.monotonic()
    found = await measured(configure(recovery={"services": services}))
    assert time.monotonic() - begun < 3, "they are asked at once, each within its own time"
    colours = {name: found[f"services/{name}"].colour.value for name in names}
    assert colours == {"ok": "green", "slow": "yellow", "broken": "red", "hung": "red", "down": "red"}
    assert all(bool(one.problem) == (one.colour is not Colour.GREEN) for one in found.values())


@pytest.mark.parametrize(
    ("depth", "colour"), [(0, Colour.GREEN), (8, Colour.GREEN), (9, Colour.YELLOW), (11, Colour.RED)]
)
@pytest.mark.parametrize("kind", ["list", "stream"])
async def test_a_queue_in_redis(
    configure: Configure, redis_client: redis.Redis, kind: str, depth: int, colour: Colour
) -> None:
    for number in range(depth):
        if kind == "list":
            redis_client.lpush("orders", number)
        else:
            redis_client.xadd("orders", {"number": number})
    found = await measured(configure(recovery={"queues": {"orders": {"key": "orders", "limit": 10}}}))
    assert (found["queues/orders"].colour, found["queues/orders"].value) == (colour, str(depth))


async def test_a_key_that_is_no_queue_is_red(configure: Configure, redis_client: redis.Redis) -> None:
    redis_client.set("orders", "x")
    found = await measured(configure(recovery={"queues": {"orders": {"key": "orders", "limit": 10}}}))
    assert found["queues/orders"].colour is Colour.RED
    assert "orders is a string" in found["queues/orders"].problem


async def test_queues_and_latencies_by_prometheus(configure: Configure, web: Web) -> None:
    web.answering = prometheus({"depth": [3], "p99": [0.5], "fast": [0.001], "nan": [float("nan")]})
    limits = {
        "queues": {"q": {"query": "depth", "limit": 2}, "unknown": {"query": "nothing", "limit": 2}},
        "latencies": {name: {"query": name, "limit": 0.1} for name in ("p99", "fast", "nan")},
    }
    found = await measured(configure(recovery={**limits, "prometheus_url": web.url}))
    colours = {name: one.colour.value for name, one in found.items() if "/" in name and "Prometheus" in one.how}
    assert colours == {
        "queues/q": "red",
        "queues/unknown": "red",
        "latencies/p99": "red",
        "latencies/fast": "green",
        "latencies/nan": "red",
    }
    assert "scraped" in found["latencies/nan"].problem


@pytest.mark.parametrize(
    "body", ["<html>", '{"status": "error", "error": "parse error"}', "[]", '{"status": "success"}']
)
async def test_what_is_no_prometheus_is_red(configure: Configure, web: Web, body: str) -> None:
    web.answering = lambda _: Answer(400, body)
    limits = {"latencies": {"p99": {"query": "p99", "limit": 0.1}}, "prometheus_url": web.url}
    one = (await measured(configure(recovery=limits)))["latencies/p99"]
    assert one.colour is Colour.RED
    assert "Prometheus" in one.problem


async def test_a_query_without_a_prometheus_names_the_setting(configure: Configure) -> None:
    found = await measured(configure(recovery={"latencies": {"p99": {"query": "p99", "limit": 0.1}}}))
    assert "recovery.prometheus_url" in found["latencies/p99"].problem


async def test_transitions_that_nobody_drains_turn_red_with_age(
    configure: Configure, redis_client: redis.Redis
) -> None:
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state(by="test")
    breaker.close()
    assert (await measured(configure()))["queues/outbox"].colour is Colour.GREEN
    milliseconds = (int(time.time()) - 300) * 1000
    redis_client.xadd("circuit_breaker:outbox:account:ALPHA", {"event": "{}"}, id=f"{milliseconds}-0")
    redis_client.set("circuit_breaker:outbox:corrupt:1", "put aside by a trip")
    found = (await measured(configure()))["queues/outbox"]
    assert found.colour is Colour.RED
    assert found.value.startswith("2 records, the oldest 30")


async def test_records_that_wait_on_this_hosts_disk_turn_red_with_age(configure: Configure) -> None:
    settings = configure()
    assert (await measured(settings))["queues/spool"].value == "empty"
    old = datetime.now(UTC) - timedelta(minutes=10)
    open_spool(settings).add([AuditRecord(action="WAITS", source="cli", timestamp=old)])
    found = (await measured(settings))["queues/spool"]
    assert found.colour is Colour.RED and found.value.startswith("1 records, the oldest 60")


async def test_nothing_is_raised_when_redis_is_down(configure: Configure) -> None:
    settings = configure(
        redis_url=f"redis://127.0.0.1:{free_port()}",
        redis_timeout=0.3,
        recovery={"queues": {"orders": {"key": "orders", "limit": 10}}},
    )
    found = await measured(settings)
    assert found["queues/orders"].colour is found["queues/outbox"].colour is Colour.RED


@given(value=st.floats(0, 1e9), limit=st.floats(1e-3, 1e6))
def test_the_limit_itself_is_still_allowed(value: float, limit: float) -> None:
    assert (judge(value, limit) is Colour.RED) == (value > limit)
    assert (judge(value, limit) is Colour.GREEN) == (value <= NEAR * limit)
