"""Any sequence of what people, rules and accidents do to a breaker, against the sequential machine of its rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from breaker import BreakerError, CircuitBreaker, NotTripped, ResetRateLimited, StateConflict, Status, TransitionEvent
from breaker.keys import Keys
from breaker.redis_time import to_datetime
from breaker.uuid7 import uuid7
from proofs.models.breaker_rules import (
    DONE,
    GARBAGE,
    OPEN,
    QUIET_PERIOD,
    REPEATED,
    TRIPPED,
    UNCHANGED,
    EndQuietPeriod,
    Flush,
    Held,
    Initialize,
    Override,
    Record,
    Reset,
    Transition,
    Trip,
    apply,
)
from sandbox.embedded_redis import EmbeddedRedis
from tests.helpers import FULL

KEYS = Keys.of()
SECOND = 1_000_000
QUIET, INTERVAL = 1_000 * SECOND, 60 * SECOND
REFUSALS: dict[str, type[BreakerError]] = {"NOT_TRIPPED": NotTripped, "RATE_LIMITED": ResetRateLimited}
"""Any other is a StateConflict."""


class Breaker(RuleBasedStateMachine):
    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.client: Any = redis.Redis.from_url(self.url)
        self.client.flushall()
        self.cb = CircuitBreaker(self.client, quiet_period=QUIET / SECOND)
        self.held = Held()
        self.seen = 0, False
        self.done: list[Transition] = []

    def teardown(self) -> None:
        self.cb.close()
        self.client.close()

    def now(self) -> int:
        """Redis's time in Unix microseconds; no period here ends while it is on its way."""
        seconds, micros = self.client.time()
        return int(seconds) * SECOND + int(micros)

    def call(self, call: Transition) -> None:
        """The breaker does what the machine says, and says the same of it."""
        expected, after = apply(self.held, call, self.now())
        if expected in (DONE, REPEATED, UNCHANGED):
            before = self.everything()
            status = self.ask(call)
            if expected == DONE:
                assert status.as_of is not None
                # The same once more, at the time at which the script ran.
                _, self.held = apply(self.held, call, round(status.as_of.timestamp() * SECOND))
                self.seen = max(self.seen, self.rank())
                self.done.append(call)
                assert (status.state, status.epoch) == (self.held.word, self.held.epoch)
                assert (status.trip_reason, status.incident_id) == (self.held.reason, self.held.incident)
            else:
                assert self.everything() == before
        else:
            assert after == self.held
            self.refused(REFUSALS.get(expected, StateConflict), lambda: self.ask(call))

    def ask(self, call: Transition) -> Status:
        match call:
            case Trip(event_id, incident, reason):
                return self.cb.trip(reason, event_id=event_id, incident_id=incident)
            case Reset(event_id, _, _, epoch):
                pinned = epoch if isinstance(epoch, int) else None
                return self.cb.reset("ada", event_id=event_id, expected_epoch=pinned)
            case Initialize(event_id, force):
                return self.cb.initialize_state(force, event_id=event_id)
            case EndQuietPeriod(event_id, epoch):
                return self.cb.end_quiet_period(expected_epoch=epoch, event_id=event_id)

    def refused(self, kind: type[BreakerError], call: Callable[[], Status]) -> None:
        before = self.everything()
        with pytest.raises(kind):
            call()
        assert self.everything() == before

    def rank(self) -> tuple[int, bool]:
        """What is held, as a client orders what it has seen: in one epoch, TRIPPED is the later of two copies."""
        return self.held.epoch or 0, self.held.word == TRIPPED

    def everything(self) -> dict[Any, Any]:
        return {key: self.client.dump(key) for key in self.client.keys("*")}

    @rule(reason=st.sampled_from(["MANUAL", "DRAWDOWN", "API_ERRORS"]))
    def trip(self, reason: str) -> None:
        self.call(Trip(uuid7(), uuid7(), reason))

    @rule(pinned=st.booleans())
    def reset(self, pinned: bool) -> None:
        epoch = self.held.epoch if pinned and self.held.epoch is not None else ""
        self.call(Reset(uuid7(), QUIET, INTERVAL, epoch))

    @rule(stale=st.booleans())
    def end_quiet_period(self, stale: bool) -> None:
        self.call(EndQuietPeriod(uuid7(), (self.held.epoch or 0) + (1 if stale else 0)))

    @rule(force=st.booleans())
    def initialize(self, force: bool) -> None:
        self.call(Initialize(uuid7(), force))

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        self.call(data.draw(st.sampled_from(self.done)))

    @precondition(lambda self: self.held.word_at(self.now()) == QUIET_PERIOD)
    @rule()
    def quiet_period_runs_out(self) -> None:
        stored = json.loads(self.client.get(KEYS.state))
        self.client.set(KEYS.state, json.dumps(stored | {"quiet_until": "2020-01-01T00:00:00Z"}))
        self.held = self.held._replace(quiet_until=0)

    @rule()
    def limit_runs_out(self) -> None:
        self.client.delete(KEYS.reset_rate_limit)
        self.held = self.held._replace(limited_until=0)

    @rule()
    def somebody_trips_by_hand(self) -> None:
        self.client.set(KEYS.state, '{"state":"TRIPPED","trip_reason":"EMERGENCY_MANUAL"}')
        self.override(Override(TRIPPED))
        self.held = self.held._replace(reason="EMERGENCY_MANUAL")

    @rule(ago=st.sampled_from([0, 200, 400]))
    def somebody_begins_a_quiet_period_by_hand(self, ago: int) -> None:
        reset_at = self.now() - ago * SECOND
        stored = {"state": QUIET_PERIOD, "reset_at": to_datetime(reset_at).isoformat()}
        self.client.set(KEYS.state, json.dumps(stored))
        self.override(Override(QUIET_PERIOD, reset_at=reset_at))

    @rule(back=st.integers(1, 3))
    def an_older_state_is_restored(self, back: int) -> None:
        epoch = max(self.seen[0] - back, 0)
        self.client.set(KEYS.state, json.dumps({"state": "OPEN", "epoch": epoch}))
        self.override(Override(OPEN, epoch))

    @rule(garbage=st.sampled_from(["", "garbage", "[]", '{"state":"HALTED"}', '{"state":"QUIET_PERIOD"}']))
    def garbage(self, garbage: str) -> None:
        self.client.set(KEYS.state, garbage)
        self.override(Override(GARBAGE))

    @rule()
    def a_list_takes_the_state_keys_place(self) -> None:
        self.client.delete(KEYS.state)
        self.client.rpush(KEYS.state, "x")
        self.override(Override(GARBAGE))

    @rule()
    def flush(self) -> None:
        self.client.flushall()
        self.override(Flush())
        self.done.clear()

    @rule()
    def the_scripts_are_forgotten(self) -> None:
        self.client.script_flush()

    def override(self, call: Override | Flush) -> None:
        _, self.held = apply(self.held, call, self.now())

    @invariant()
    def what_is_read_is_what_must_be(self) -> None:
        status = self.cb.get_status()
        word = self.held.word_at(self.now())
        older = self.held.epoch is not None and self.rank() < self.seen
        if word not in (OPEN, TRIPPED, QUIET_PERIOD) or older:
            word = "UNKNOWN"
        assert status.state == word
        assert status.is_tripped == (word in ("TRIPPED", "UNKNOWN"))

    @invariant()
    def history_and_outbox_tell_every_transition_once(self) -> None:
        entries = self.client.xrange(KEYS.outbox)
        recorded = list(self.held.recorded)
        assert told([TransitionEvent.from_json(fields[b"event"]) for _, fields in entries]) == recorded
        assert told(self.cb.get_history(1_000)[::-1]) == recorded


def told(events: list[TransitionEvent]) -> list[Record]:
    return [
        Record(
            event.event_id,
            event.transition.value,
            event.from_state,
            event.to_state,
            event.epoch,
            event.incident_id,
            round(event.at.timestamp() * SECOND),
        )
        for event in events
    ]


def test_promises_1_2_and_4_hold_for_any_sequence_of_events(
    redis_server: EmbeddedRedis, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaker, "url", redis_server.url)
    run_state_machine_as_test(
        Breaker,
        settings=settings(
            max_examples=500 if FULL else 15,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
