"""A recovery that waits for people, and just enough of an orchestrator to take their answers.

The real one is in `tests/services/test_recovery_served.py`; here it is the page that is tried.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import pytest
import redis
from prefect.context import refresh_global_settings_context

from breaker.uuid7 import uuid7
from tasks import orchestrator
from tasks.recovery.checklist import CHECKLIST, ITEMS
from tasks.recovery.state import ItemState, RecoveryState, Tick, state_key
from tests.tasks.web import Answer, Asked, Web

FLOW_RUN = "0c1f8a52-6f0e-4d0e-9b53-0d6a4d1f2a11"
EVIDENCE = {
    "trip-reason": "MANUAL by ada: quotes look frozen",
    "drawdown": "1.9 % (limit 5 %; equity 981500 of 1000000)",
    "position-sizes": "14 positions, largest 48,112.50 USD (limit none configured; the venues' lists)",
    "api-errors": "3 (limit 10 in 5 minutes; what gateways reported)",
    "redis": "0.4 ms (limit 50 ms; PING)",
    "ledger": "2.1 ms (limit 250 ms; SELECT 1)",
    "queues": "outbox: 0 waiting (limit 0 older than 120 s; XLEN)",
    "latencies": "orders: 18 ms (limit 250 ms; Prometheus)",
    "notify": "delivered",
    "conflicts": "none (limit none; kill switches, open closes, other recoveries)",
    "services": "gateway: 200 after 3 ms (limit 500 ms; GET /health)",
}


class SuspendedRun:
    """While it is entered, Prefect's client in this process asks it.

    `answers` is what people gave; `goes_on` is called with each, as the flow would be.
    """

    def __init__(self, goes_on: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        self.answers: list[dict[str, Any]] = []
        self.paused = True
        self._goes_on = goes_on
        self._web = Web(self._answer)
        self._patch = pytest.MonkeyPatch()

    @property
    def api_url(self) -> str:
        return f"{self._web.url}/api"

    def __enter__(self) -> Self:
        self._web.__enter__()
        self._patch.setenv("PREFECT_API_URL", self.api_url)
        self._patch.setattr(orchestrator, "DEADLINE", 30.0)  # a busy machine takes seconds to open its first client
        refresh_global_settings_context()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._patch.undo()
        refresh_global_settings_context()
        self._web.__exit__(kind, error, tb)

    @property
    def asked(self) -> int:
        return len(self._web.asked)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Answer nobody until the block is left."""
        goes_on = threading.Event()
        self._web.answering = lambda asked: replace(self._answer(asked), wait=goes_on)
        try:
            yield
        finally:
            self._web.answering = self._answer
            goes_on.set()

    def _answer(self, asked: Asked) -> Answer:
        run = f"/api/flow_runs/{FLOW_RUN}"
        state = {
            "type": "PAUSED" if self.paused else "RUNNING",
            "name": "Suspended",
            "id": uuid7(),
            "timestamp": _now(),
        }
        if (asked.method, asked.path) == ("GET", run):
            return _json({"id": FLOW_RUN, "flow_id": uuid7(), "name": "recovery", "state": state})
        if (asked.method, asked.path) == ("POST", f"{run}/resume"):
            self.answers.append(asked.json["run_input"])
            self._goes_on(asked.json["run_input"])
            return _json({"state": state, "status": "ACCEPT", "details": {"type": "accept_details"}})
        if (asked.method, asked.path) == ("POST", "/api/flow_runs/count"):
            return _json(0)
        if (asked.method, asked.path) == ("POST", "/api/flow_runs/filter"):
            return _json([])
        return Answer(HTTPStatus.NOT_FOUND)


def waiting_for(client: redis.Redis, form: str, incident_id: str, **changes: Any) -> RecoveryState:
    """Put down a recovery of the global breaker that waits for this form, with everything ticked that would be."""
    state = RecoveryState(
        incident_id=incident_id,
        scope="global",
        flow_run_id=FLOW_RUN,
        phase=f"waiting for a person: {form}",
        waiting_for=form,
        waiting_since=_now(),
        question=f"{form}-1-1",
        heartbeat_at=_now(),
    )
    if form == "approval":
        done = [item.key for section in CHECKLIST[:4] for item in section.items]
        state = replace(state, author="bob", items={key: _ticked(key) for key in done})
    return put(client, replace(state, **changes))


def finished(client: redis.Redis, before: RecoveryState) -> RecoveryState:
    items = {key: _ticked(key) for key in ITEMS}
    return put(client, replace(before, phase="recovered: OPEN", waiting_for="", question="", done=True, items=items))


def put(client: redis.Redis, state: RecoveryState) -> RecoveryState:
    client.set(state_key(state.scope), state.to_json())
    return state


def _ticked(key: str) -> ItemState:
    by = "bob" if key in ("trip-reason", "anomalies", "logs", "incident-report") else ""
    tick = Tick.YELLOW if key == "position-sizes" else Tick.GREEN
    return ItemState(tick, _now(), by, EVIDENCE.get(key, "evidence reviewed; see the incident report"))


def _json(body: object) -> Answer:
    return Answer(HTTPStatus.OK, json.dumps(body), {"Content-Type": "application/json"})


def _now() -> str:
    return datetime.now(UTC).isoformat()
