"""NautilusTrader itself: the node of its how-to page, tripped by another process; and its rules beside the gate's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker
from tests.breaker.engines.engine_environments import environment, needs, page_program, program
from tests.docs.pages import ROOT
from tests.helpers import PATIENCE, eventually

pytestmark = [needs("nautilus"), pytest.mark.timeout(300)]

PAGE = ROOT / "docs" / "how-to" / "guard-nautilus.md"
BOUND = 1.0
"""Seconds: the gate's 0.2, and what the event loop of a busy machine adds behind it."""
TRIP = """
import sys, time
from breaker import CircuitBreaker, open_redis
CircuitBreaker(open_redis(sys.argv[1])).trip("MANUAL")
print(time.time())
"""


@pytest.fixture
def log(tmp_path: Path, redis_server: Any, redis_client: redis.Redis) -> Iterator[Path]:
    """What the page's node says, which runs."""
    CircuitBreaker(redis_client).initialize_state()
    (tmp_path / "node.py").write_text(page_program(PAGE.name), encoding="utf-8")
    said = tmp_path / "said"
    with said.open("wb") as output:
        node = subprocess.Popen(
            [program("nautilus"), "node.py"],
            cwd=tmp_path,
            env=environment(tmp_path, BREAKER_REDIS_URL=redis_server.url),
            stdout=output,
            stderr=output,
        )
    yield said
    node.kill()
    node.wait(PATIENCE)


def fills(log: Path) -> list[tuple[str, float]]:
    lines = [line.split() for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("filled ")]
    return [(line[1], float(line[2])) for line in lines if len(line) == 3]


def test_a_node_buys_nothing_after_a_trip_and_sells_what_it_holds(
    log: Path, redis_server: Any, redis_client: redis.Redis
) -> None:
    eventually(lambda: len(fills(log)) >= 10, log.read_text, within=120)
    eventually(lambda: redis_client.hget("circuit_breaker:equity:account:NODE", "currency") == b"USDT", log.read_text)
    command = [sys.executable, "-c", TRIP, redis_server.url]
    acknowledged = float(subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE).stdout)
    eventually(lambda: [side for side, _ in fills(log)].count("SELL") >= 3, log.read_text)
    assert max(at for side, at in fills(log) if side == "BUY") <= acknowledged + BOUND
    said = log.read_text(encoding="utf-8")
    assert "denied BREAKER: " in said or "denied BUY when TradingState.REDUCING and LONG" in said  # whoever is first


def test_the_page_has_the_rules_as_both_apply_them(tmp_path: Path, own_server: Any) -> None:
    asked = Path(__file__).with_name("nautilus_rules.py")
    command = [program("nautilus"), str(asked), own_server.url]
    answered = subprocess.run(command, env=environment(tmp_path), check=True, capture_output=True, timeout=240)
    rows = [f"| {order} | {' | '.join(answers)} |" for order, answers in json.loads(answered.stdout).items()]
    assert "\n".join(rows) in PAGE.read_text(encoding="utf-8")
