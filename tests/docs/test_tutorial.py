"""The engine of the tutorial does what its page says: it buys, is halted, goes on selling, and is let go on slowly."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import redis

from breaker import CircuitBreaker
from breaker.state import State
from sandbox.embedded_redis import EmbeddedRedis
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "tutorial" / "engine.md"
PRINTED_URL = "redis://localhost:6379/0"


class Engine:
    """The page's program at work; what it prints goes to a file, which is read until a deadline."""

    def __init__(self, program: Path, output: Path) -> None:
        self._output = output
        with output.open("wb") as out:
            self._process = subprocess.Popen([sys.executable, str(program)], cwd=ROOT, stdout=out, stderr=out)

    def said(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def wait_until_it_says(self, words: str) -> None:
        give_up = time.monotonic() + 20
        while words not in self.said():
            assert time.monotonic() < give_up and self._process.poll() is None, self.said()
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def test_the_engine_of_the_tutorial(redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path) -> None:
    breaker = CircuitBreaker(redis_client, quiet_period=30)
    breaker.initialize_state()
    code, _ = blocks(PAGE, "python")
    assert code.count(PRINTED_URL) == 1
    program = tmp_path / "engine.py"
    program.write_text(code.replace(PRINTED_URL, redis_server.url), encoding="utf-8")
    engine = Engine(program, tmp_path / "output")
    try:
        engine.wait_until_it_says("bought, holding 1: OPEN\nbought, holding 2: OPEN\n")
        breaker.trip("MANUAL")
        engine.wait_until_it_says("not bought: TRIPPED. The global breaker is TRIPPED (MANUAL); until its reset only")
        engine.wait_until_it_says(": REDUCES_RISK\n")
        breaker.reset(reset_by="ada", reason="only trying out what the breaker does")
        engine.wait_until_it_says(": QUIET_PERIOD\n")
    finally:
        engine.stop()
    breaker.close()


def test_the_rule_of_the_tutorial_trips(redis_server: EmbeddedRedis, redis_client: redis.Redis, tmp_path: Path) -> None:
    breaker = CircuitBreaker(redis_client)
    breaker.initialize_state()
    _, code = blocks(PAGE, "python")
    assert code.count("redis.Redis()") == 1
    program = code.replace("redis.Redis()", f"redis.Redis.from_url({redis_server.url!r})")
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert ran.stdout == "WITHIN\nTRIPPED\n" and ran.stdout.strip() in PAGE.read_text(encoding="utf-8")
    assert breaker.get_state() is State.TRIPPED
    breaker.close()
