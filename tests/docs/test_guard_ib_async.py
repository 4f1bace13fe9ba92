"""The program of the how-to runs as it stands: it buys, is halted from elsewhere, sells what it holds and ends."""

from __future__ import annotations

import os
import subprocess
import sys

import redis

from breaker import CircuitBreaker
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tests.docs.pages import ROOT, blocks
from tests.helpers import PATIENCE, eventually

PAGE = ROOT / "docs" / "how-to" / "guard-ib-async.md"


def test_the_program_of_the_page(redis_server: EmbeddedRedis, redis_client: redis.Redis) -> None:
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state()
    (program,) = blocks(PAGE, "python")
    with PaperExchangeThread(parse("[prices]\nAAPL = 200\n")) as exchange:
        here = {"REDIS_URL": redis_server.url, "TWS_PORT": str(exchange.tws_port), "PAUSE": "0.05"}
        engine = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, **here},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            eventually(lambda: int(exchange.report()["positions"].get("AAPL", 0)) >= 2)
            breaker.trip("MANUAL")
            said, _ = engine.communicate(timeout=PATIENCE)
        finally:
            engine.kill()
            engine.wait(PATIENCE)
        report = exchange.report()
    assert said.startswith("bought\nbought\n") and "\nnot bought: " in said and engine.returncode == 0
    assert report["is_flat"] and not report["sign_changes"]
    measured = redis_client.hgetall("circuit_breaker:equity")
    assert measured, "what TWS tells of the account has told the rules its equity"
    breaker.close()
