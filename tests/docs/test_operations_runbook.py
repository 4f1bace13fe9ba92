"""Every code block of the operations runbook runs as printed, from the first to the last, in the project's folder.

Only the addresses are the test's: the servers listen on free ports here, not on those that the runbook takes for given.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from breaker import CircuitBreaker
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tests.docs.runbook_lines import lines_of
from tests.helpers import shown_on

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "docs" / "evidence" / "operations-runbook.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
TRIP, STATUS, RESET, LOOK, AUDIT, KILL, OVERRIDE = (text for _, text in BLOCKS)
BOOK = "rate_limit = 100000\n[book]\norders = 6\npositions = 3\n"


class Desk:
    """The project's folder in a shell with the environment activated, and what it talks to."""

    def __init__(self, directory: Path, server: EmbeddedRedis, venue: PaperExchangeThread) -> None:
        self._port = server.port
        self.database = directory / "state" / "audit.db"
        configuration = directory / "breaker.toml"
        configuration.write_text(
            f'redis_url = "{server.url}"\nstate_dir = "{directory / "state"}"\n'
            "[kill]\nsettle = 0.05\nguard = 0.1\npoll_interval = 0.05\nrecord_wait = 0.2\n"
            f'[accounts.ALPHA]\nbase_url = "{venue.url}"\nkey_id = "key"\nsecret_key = "secret"\n'
        )
        commands = directory / "commands"
        commands.mkdir()
        client = commands / "redis-cli"
        client.write_text(f'#!/bin/sh\nexec {shutil.which("redis-cli")} -p {server.port} "$@"\n')
        client.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
        self._environment = {
            **kept,
            "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "BREAKER_CONFIG": str(configuration),
            "PREFECT_API_URL": "http://127.0.0.1:9/api",
            "PREFECT_HOME": str(directory / "prefect"),
        }

    def type(self, block: str, *answers: str) -> str:
        """Run the block in a terminal, answer what it asks, and return all that was on the screen."""
        keyboard, terminal = os.openpty()
        block = block.replace("port=6379", f"port={self._port}")
        process = subprocess.Popen(
            ["bash", "-c", block], cwd=ROOT, env=self._environment, stdin=terminal, stdout=terminal, stderr=terminal
        )
        os.close(terminal)
        for answer in answers:
            os.write(keyboard, f"{answer}\n".encode())
        screen = shown_on(keyboard)
        self.status = process.wait(timeout=60)
        return screen.replace("\r\n", "\n")


@pytest.fixture
def venue() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread(parse(BOOK)) as running:
        yield running


@pytest.fixture
def desk(tmp_path: Path, redis_server: EmbeddedRedis, redis_client: redis.Redis, venue: PaperExchangeThread) -> Desk:
    if shutil.which("redis-cli") is None:
        if "BREAKER_REQUIRE_REDIS_CLI" in os.environ:
            pytest.fail("there is no redis-cli")
        pytest.skip("there is no redis-cli")
    CircuitBreaker(redis_client).initialize_state()
    return Desk(tmp_path, redis_server, venue)


def test_every_block_runs_as_printed(desk: Desk, redis_client: redis.Redis, venue: PaperExchangeThread) -> None:
    breaker = CircuitBreaker(redis_client)
    said = desk.type(TRIP)
    assert desk.status == 0, said
    assert "■ TRIPPED" in said and said.endswith("Circuit breaker TRIPPED\n")
    said = desk.type(STATUS)
    assert desk.status == 0, said
    assert '"state": "TRIPPED"' in said and "State: TRIPPED" in said and "Reason: MANUAL" in said
    said = desk.type(RESET)
    assert (desk.status, said) == (0, "Circuit breaker RESET to OPEN\n")
    said = desk.type(LOOK)
    assert desk.status == 0, said
    assert '"state":"QUIET_PERIOD"' in said.replace('\\"', '"').replace(" ", "") and "TRIP" in said
    said = desk.type(KILL, "FLATTEN")
    assert desk.status == 0, said
    assert "FLAT" in said and venue.report()["is_flat"] and venue.report()["violations"] == []
    assert breaker.get_state() == "TRIPPED"
    said = desk.type(OVERRIDE)
    assert (desk.status, said) == (0, "OK\n")
    assert breaker.get_status().trip_details == {"operator": "emergency"}
    with contextlib.closing(sqlite3.connect(desk.database)) as database:
        rows = database.execute(AUDIT).fetchall()
    assert [row[1] for row in rows] == [
        "CIRCUIT_BREAKER_TRIP",
        "CIRCUIT_BREAKER_RESET",
        "CIRCUIT_BREAKER_TRIP",
        "CIRCUIT_BREAKER_TRIP",
    ]
    assert json.loads(rows[-1][3])


def test_the_inline_commands_are_the_runbooks_too(desk: Desk) -> None:
    assert desk.type("redis-cli PING") == "PONG\n"
    assert '"state":"OPEN"' in desk.type("redis-cli GET circuit_breaker:state").replace('\\"', '"').replace(" ", "")


def test_every_line_is_in_the_table_and_held_by_a_test_that_there_is() -> None:
    table = (RUNBOOK.parent / "runbook-lines.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ``(.*)`` \| ([^|]+) \| `(\w+)` \|$", table, re.MULTILINE)
    assert [line.replace("\\|", "|") for _, line, _, _ in rows] == lines_of(RUNBOOK)
    assert [int(number) for number, *_ in rows] == list(range(1, len(rows) + 1))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert {test for *_, test in rows} <= set(re.findall(r"^(?:async )?def (test_\w+)", sources, re.MULTILINE))
