"""Any sequence of what people, rules and accidents do to a breaker, against a plain model of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from breaker import BreakerError, CircuitBreaker, NotTripped, ResetRateLimited, StateConflict, Status, TransitionEvent
from breaker.keys import Keys
from breaker.uuid7 import uuid7
from sandbox.embedded_redis import EmbeddedRedis

KEYS = Keys.of()


@dataclass
class Model:
    """What must be true of the breaker. `word` is what a reader must see; MISSING and UNKNOWN both read as UNKNOWN."""

    word: str = "MISSING"
    epoch: int | None = None
    reason: str | None = None
    incident: str | None = None
    limited: bool = False
    recorded: list[tuple[str, str, str, int]] = field(default_factory=list)

    def next_epoch(self) -> int | None:
        """One more than the highest known; None where it must be the time in milliseconds."""
        known = [epoch for *_, epoch in self.recorded] + ([] if self.epoch is None else [self.epoch])
        return max(known) + 1 if known else None


class Breaker(RuleBasedStateMachine):
    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.client = redis.Redis.from_url(self.url)
        self.client.flushall()
        self.cb = CircuitBreaker(self.client, quiet_period=1_000)
        self.model = Model()
        self.seen = 0
        self.done: list[Callable[[], Status]] = []

    def teardown(self) -> None:
        self.cb.close()
        self.client.close()

    def did(self, transition: str, to: str, status: Status, *, at_least_now: bool = False) -> None:
        """Take note that `transition` must have happened, and compare its epoch."""
        assert status.epoch is not None
        expected = self.model.next_epoch()
        if expected is None or at_least_now:
            now = time.time_ns() // 1_000_000
            assert max(now - 10_000, expected or 0) <= status.epoch <= max(now, expected or 0)
        else:
            assert status.epoch == expected
        self.model.recorded.append((transition, self.model.word, to, status.epoch))
        self.model.word, self.model.epoch = to, status.epoch
        self.seen = max(self.seen, status.epoch)

    def refused(self, kind: type[BreakerError], call: Callable[[], Status]) -> None:
        before = self.everything()
        with pytest.raises(kind):
            call()
        assert self.everything() == before

    def everything(self) -> dict[Any, Any]:
        keys: Any = self.client.keys()
        return {key: self.client.dump(key) for key in keys}

    @rule(reason=st.sampled_from(["MANUAL", "DRAWDOWN", "API_ERRORS"]))
    def trip(self, reason: str) -> None:
        event_id, incident = uuid7(), uuid7()
        status = self.cb.trip(reason, event_id=event_id, incident_id=incident)
        self.done.append(lambda: self.cb.trip("REPEATED", event_id=event_id))
        if self.model.word not in ("TRIPPED", "QUIET_PERIOD") or self.model.incident is None:
            self.model.incident = incident
        if self.model.word != "TRIPPED" or self.model.reason is None:
            self.model.reason = reason
        self.did("TRIP", "TRIPPED", status)
        assert (status.trip_reason, status.incident_id) == (self.model.reason, self.model.incident)

    @rule()
    def reset(self) -> None:
        event_id = uuid7()
        if self.model.word != "TRIPPED":
            self.refused(NotTripped, lambda: self.cb.reset("ada"))
        elif self.model.limited:
            self.refused(ResetRateLimited, lambda: self.cb.reset("ada"))
        else:
            self.did("RESET", "QUIET_PERIOD", self.cb.reset("ada", event_id=event_id, expected_epoch=self.model.epoch))
            self.model.limited = True
            self.done.append(lambda: self.cb.reset("ada", event_id=event_id))

    @rule(stale=st.booleans())
    def end_quiet_period(self, stale: bool) -> None:
        epoch = (self.model.epoch or 0) + (1 if stale else 0)
        if self.model.word == "QUIET_PERIOD" and not stale:
            self.did("QUIET_PERIOD_END", "OPEN", self.cb.end_quiet_period(expected_epoch=epoch))
        elif self.model.word != "OPEN":
            self.refused(StateConflict, lambda: self.cb.end_quiet_period(expected_epoch=epoch))

    @rule(force=st.booleans())
    def initialize(self, force: bool) -> None:
        word = self.model.word
        if (word == "UNKNOWN" and not force) or (word in ("TRIPPED", "QUIET_PERIOD") and force):
            self.refused(StateConflict, lambda: self.cb.initialize_state(force))
            return
        status = self.cb.initialize_state(force)
        if word == "MISSING" or force:
            self.model.reason = self.model.incident = None
            self.did("INITIALIZE", "OPEN", status, at_least_now=force)

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        again = data.draw(st.sampled_from(self.done))
        before = self.everything()
        again()
        assert self.everything() == before

    @precondition(lambda self: self.model.word == "QUIET_PERIOD")
    @rule()
    def quiet_period_runs_out(self) -> None:
        raw: Any = self.client.get(KEYS.state)
        stored = json.loads(raw)
        self.client.set(KEYS.state, json.dumps(stored | {"quiet_until": "2020-01-01T00:00:00Z"}))
        self.model.word = "OPEN"

    @rule()
    def limit_runs_out(self) -> None:
        self.client.delete(KEYS.reset_rate_limit)
        self.model.limited = False

    @rule()
    def somebody_trips_by_hand(self) -> None:
        self.client.set(KEYS.state, '{"state":"TRIPPED","trip_reason":"EMERGENCY_MANUAL"}')
        self.model.word, self.model.epoch, self.model.reason, self.model.incident = (
            "TRIPPED",
            None,
            "EMERGENCY_MANUAL",
            None,
        )

    @rule(back=st.integers(1, 3))
    def an_older_state_is_restored(self, back: int) -> None:
        epoch = max(self.seen - back, 0)
        self.client.set(KEYS.state, json.dumps({"state": "OPEN", "epoch": epoch}))
        self.model.word, self.model.epoch, self.model.reason, self.model.incident = "OPEN", epoch, None, None

    @rule(garbage=st.sampled_from(["", "garbage", "[]", '{"state":"HALTED"}', '{"state":"QUIET_PERIOD"}']))
    def garbage(self, garbage: str) -> None:
        self.client.set(KEYS.state, garbage)
        self.model.word, self.model.epoch, self.model.reason, self.model.incident = "UNKNOWN", None, None, None

    @rule()
    def a_list_takes_the_state_keys_place(self) -> None:
        self.client.delete(KEYS.state)
        self.client.rpush(KEYS.state, "x")
        self.model.word, self.model.epoch, self.model.reason, self.model.incident = "UNKNOWN", None, None, None

    @rule()
    def flush(self) -> None:
        self.client.flushall()
        self.model = Model()
        self.done.clear()

    @rule()
    def the_scripts_are_forgotten(self) -> None:
        self.client.script_flush()

    @invariant()
    def what_is_read_is_what_must_be(self) -> None:
        status = self.cb.get_status()
        word = "UNKNOWN" if self.model.word == "MISSING" else self.model.word
        if self.model.epoch is not None and self.model.epoch < self.seen:
            word = "UNKNOWN"
        assert status.state == word
        assert status.is_tripped == (word in ("TRIPPED", "UNKNOWN"))

    @invariant()
    def history_and_outbox_tell_every_transition_once(self) -> None:
        def told(events: list[TransitionEvent]) -> list[tuple[str, str, str, int]]:
            return [(e.transition.value, e.from_state, e.to_state, e.epoch) for e in events]

        entries: Any = self.client.xrange(KEYS.outbox)
        assert told([TransitionEvent.from_json(fields[b"event"]) for _, fields in entries]) == self.model.recorded
        assert told(self.cb.get_history(1_000)[::-1]) == self.model.recorded


def test_promises_1_2_and_4_hold_for_any_sequence_of_events(
    redis_server: EmbeddedRedis, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaker, "url", redis_server.url)
    run_state_machine_as_test(
        Breaker,
        settings=settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
