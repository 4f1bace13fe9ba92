"""Bad input is refused in one line before anything is sent."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from breaker import CircuitBreaker, InvalidInput, Status

NAIVE = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
DEEP: list[Any] = []
for _ in range(40):
    DEEP = [DEEP]


@pytest.fixture
def deaf() -> Any:
    """A breaker of which a single connection attempt would be noticed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield CircuitBreaker(redis.Redis(port=listener.getsockname()[1]), timeout=5)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    "reason", ["", "   ", "x" * 201, "two\nlines", "bell\x07", "\ud800", "a\u2028b", None, 7, b"MANUAL"]
)
def test_a_bad_reason(deaf: CircuitBreaker, reason: Any) -> None:
    with pytest.raises(InvalidInput, match=r"reason .*nothing was changed") as refusal:
        deaf.trip(reason)
    assert "\n" not in str(refusal.value)
    if reason is not None and reason != "x" * 201:
        with pytest.raises(InvalidInput, match=r"reason .*nothing was changed"):
            deaf.reset("ada", reason)


@pytest.mark.parametrize(
    "details",
    [{"x": float("nan")}, {"x": float("inf")}, {"x": object()}, {"x": {1, 2}}, {1: "x"}, {"x": b"bytes"},
     {"x": NAIVE}, {"x": "y" * 16_400}, {"x": DEEP}, {"x": "\ud800"}, ["x"], "x", {"x": Path()},
     {"operator": "x" * 129}, {"x": 10**5_000}],
    ids=lambda details: str(type(details)),
)  # fmt: skip
def test_bad_details(deaf: CircuitBreaker, details: Any) -> None:
    with pytest.raises(InvalidInput, match="nothing was changed") as refusal:
        deaf.trip("MANUAL", details)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("name", ["", "x" * 129, "a\tb", 7])
def test_a_bad_name(deaf: CircuitBreaker, name: Any) -> None:
    calls: list[Callable[[], Status]] = [
        lambda: deaf.trip("MANUAL", tripped_by=name),
        lambda: deaf.reset(name),
        lambda: deaf.initialize_state(by=name),
        lambda: deaf.end_quiet_period(expected_epoch=1, by=name),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match=r"by .*nothing was changed"):
            call()


@pytest.mark.parametrize(
    "arguments",
    [
        {"event_id": "kill-1"},
        {"event_id": ""},
        {"incident_id": "mine"},
        {"ip_address": "localhost"},
        {"ip_address": ""},
    ],
)
def test_bad_ids_and_addresses(deaf: CircuitBreaker, arguments: Any) -> None:
    with pytest.raises(InvalidInput, match="nothing was changed"):
        deaf.trip("MANUAL", **arguments)


@pytest.mark.parametrize("epoch", [-1, 1.5, "7", True, None])
def test_a_bad_epoch(deaf: CircuitBreaker, epoch: Any) -> None:
    with pytest.raises(InvalidInput, match="expected_epoch"):
        deaf.end_quiet_period(expected_epoch=epoch)


@pytest.mark.parametrize("limit", [0, -1, 1_001, 2.5, "10", None, True])
def test_a_bad_limit(deaf: CircuitBreaker, limit: Any) -> None:
    with pytest.raises(InvalidInput, match="limit"):
        deaf.get_history(limit)


@pytest.mark.parametrize(
    "settings",
    [{"scope": "a b"}, {"timeout": 0}, {"timeout": -1}, {"timeout": float("nan")}, {"timeout": None},
     {"quiet_period": -1}, {"quiet_period": float("inf")}, {"reset_interval": "60"}, {"source": "hearsay"}],
)  # fmt: skip
def test_bad_settings(settings: Any) -> None:
    with pytest.raises(InvalidInput):
        CircuitBreaker(redis.Redis(), **settings)


def test_who_tripped_is_the_operator_in_the_details_or_else_the_login_name(
    cb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "grace")
    assert cb.trip("MANUAL").tripped_by == "grace"
    cb.reset("ada")
    assert cb.trip("MANUAL", {"operator": "ada"}).tripped_by == "ada"
    cb.reset("ada")
    assert cb.trip("MANUAL", {"operator": "ada"}, tripped_by="bob").tripped_by == "bob"
