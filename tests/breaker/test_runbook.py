"""The operations runbook's own snippets, as printed but for the import lines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from breaker import CircuitBreaker, State
from sandbox.embedded_redis import EmbeddedRedis

TRIP = r"""
redis = RedisClient(host='localhost', port=6379)
cb = CircuitBreaker(redis)
cb.trip('MANUAL', details={'operator': 'your-name', 'reason': 'describe reason'})
print('Circuit breaker TRIPPED')
"""
STATUS = r"""
redis = RedisClient(host='localhost', port=6379)
cb = CircuitBreaker(redis)
status = cb.get_status()
print(f'State: {status["state"]}')
print(f'Tripped at: {status.get("tripped_at", "N/A")}')
print(f'Reason: {status.get("trip_reason", "N/A")}')
"""
RESET = r"""
redis = RedisClient(host='localhost', port=6379)
cb = CircuitBreaker(redis)
cb.reset(reset_by='your-name')
print('Circuit breaker RESET to OPEN')
"""
OVERRIDE = (
    '{"state":"TRIPPED","tripped_at":"2025-01-15T10:00:00Z","trip_reason":"EMERGENCY_MANUAL",'
    '"trip_details":{"operator":"emergency"}}'
)

Run = Callable[[str], str]


@pytest.fixture(params=[False, True], ids=["bytes", "decoded"])
def run(request: pytest.FixtureRequest, redis_server: EmbeddedRedis, redis_client: Any) -> Run:
    """Runs a snippet in a process of its own, with the import lines that this project's README gives."""

    def run_snippet(snippet: str) -> str:
        client = "redis.Redis" if not request.param else "functools.partial(redis.Redis, decode_responses=True)"
        code = f"import functools, redis; from breaker import CircuitBreaker; RedisClient = {client}\n" + snippet
        code = code.replace("port=6379", f"port={redis_server.port}")
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    return run_snippet


def test_trip_status_and_reset_as_printed(run: Run, redis_client: Any) -> None:
    assert run(STATUS) == "State: UNKNOWN\nTripped at: N/A\nReason: N/A\n"
    CircuitBreaker(redis_client).initialize_state()
    assert run(STATUS) == "State: OPEN\nTripped at: N/A\nReason: N/A\n"
    assert run(TRIP) == "Circuit breaker TRIPPED\n"
    stored = json.loads(redis_client.get("circuit_breaker:state"))
    assert stored["trip_details"] == {"operator": "your-name", "reason": "describe reason"}
    assert stored["tripped_by"] == "your-name"
    assert run(STATUS) == f"State: TRIPPED\nTripped at: {stored['tripped_at']}\nReason: MANUAL\n"
    assert run(RESET) == "Circuit breaker RESET to OPEN\n"
    assert CircuitBreaker(redis_client).get_status().reset_by == "your-name"


def test_the_state_is_legible_to_json_tool_and_history_to_zrevrange(redis_client: Any) -> None:
    CircuitBreaker(redis_client).trip("MANUAL", details={"operator": "your-name"})
    raw = redis_client.get("circuit_breaker:state")
    legible = subprocess.run([sys.executable, "-m", "json.tool"], input=raw, capture_output=True, check=True).stdout
    assert b'"state": "TRIPPED"' in legible
    [(member, score)] = redis_client.zrevrange("circuit_breaker:history", 0, 9, withscores=True)
    assert json.loads(member)["transition"] == "TRIP"
    assert score > 1_700_000_000


def test_the_manual_override_is_honoured_at_once(run: Run, redis_client: Any) -> None:
    cb = CircuitBreaker(redis_client)
    cb.initialize_state()
    redis_client.set("circuit_breaker:state", OVERRIDE)
    assert cb.get_state() is State.TRIPPED
    assert run(STATUS) == "State: TRIPPED\nTripped at: 2025-01-15T10:00:00Z\nReason: EMERGENCY_MANUAL\n"
    assert cb.get_status().trip_details == {"operator": "emergency"}
    run(RESET)
    assert cb.get_state() is State.QUIET_PERIOD
