"""The sequential machine and the real scripts say the same of every short sequence of calls."""

from __future__ import annotations

import json
import os
import random
from itertools import product
from typing import Any

import pytest
import redis

from breaker.deadline_client import DeadlineClient
from breaker.keys import Keys
from breaker.requests import request_builder
from breaker.uuid7 import uuid7
from proofs.models.breaker_rules import EndQuietPeriod, Held, Initialize, Override, Reset, Transition, Trip, apply
from proofs.models.history_client import stored

KEYS = Keys.of()
REQUESTS = request_builder("global", "library")
SECOND = 1_000_000
KINDS = ("trip", "repeat", "reset", "stale reset", "end", "init", "force", "trip by hand", "open by hand", "garbage")
LENGTH = 4
SEQUENCES = 10**LENGTH if os.environ.get("MODEL") == "full" else 100


def next_call(kind: str, held: Held, last: Transition | None) -> Transition | Override | None:
    epoch: int | str = "none" if held.epoch is None else held.epoch
    match kind:
        case "trip":
            return Trip(uuid7(), uuid7())
        case "repeat":
            return last
        case "reset":
            return Reset(uuid7(), 300 * SECOND, 60 * SECOND, epoch)
        case "stale reset":
            return Reset(uuid7(), 300 * SECOND, 60 * SECOND, (held.epoch or 0) + 1)
        case "end":
            return EndQuietPeriod(uuid7(), held.epoch or 0)
        case "init" | "force":
            return Initialize(uuid7(), kind == "force")
    return Override({"trip by hand": "TRIPPED", "open by hand": "OPEN", "garbage": "UNKNOWN"}[kind])


def real(call: Transition, deadline_client: DeadlineClient) -> tuple[str, int]:
    """What the script answered, and Redis's time as it ran."""
    match call:
        case Trip(event_id, incident, reason):
            request = REQUESTS.trip(reason, {}, "me", event_id, incident, None)
        case Reset(event_id, quiet, interval, epoch):
            pinned = epoch if isinstance(epoch, int) else None
            request = REQUESTS.reset("me", None, event_id, None, None, quiet / SECOND, interval / SECOND)(pinned)
        case EndQuietPeriod(event_id, epoch):
            request = REQUESTS.end_quiet_period(epoch, "me", event_id)
        case Initialize(event_id, force):
            request = REQUESTS.initialize(force, "me", event_id)
    outcome, _, _, seconds, micros, _ = deadline_client.execute(request)[0]
    return outcome.decode(), int(seconds) * SECOND + int(micros)


def told(client: Any) -> tuple[object, ...]:
    raw = client.get(KEYS.state)
    fields = json.loads(raw) if raw and raw != b"garbage" else {}
    kept = (fields.get("incident_id"), fields.get("trip_reason"), fields.get("trip_count_today", 0))
    events = [json.loads(fields[b"event"]) for _, fields in client.xrange(KEYS.outbox)]
    names = ("event_id", "transition", "from_state", "to_state", "epoch", "incident_id")
    recorded = [tuple(event[name] for name in names) for event in events]
    history = [json.loads(member) for member in client.zrange(KEYS.history, 0, -1)]
    assert sorted(history, key=lambda event: int(event["epoch"])) == events
    return *stored(raw), *kept, bool(client.exists(KEYS.reset_rate_limit)), recorded


def expected(held: Held) -> tuple[object, ...]:
    recorded = [tuple(record)[:6] for record in held.recorded]
    kept = (held.incident, held.reason, held.trips)
    return held.word, held.epoch, *kept, held.limited_until > 0, recorded


@pytest.mark.timeout(1200)
def test_the_machine_does_what_the_scripts_do(redis_client: redis.Redis) -> None:
    sequences = list(product(KINDS, repeat=LENGTH))
    client, deadline_client, steps = redis_client, DeadlineClient(redis_client, 5.0), 0
    for sequence in random.Random(7).sample(sequences, SEQUENCES):
        client.flushdb()
        held, last = Held(), None
        for number, kind in enumerate(sequence):
            call = next_call(kind, held, last)
            if call is None:
                continue
            if isinstance(call, Override):
                client.set(KEYS.state, "garbage" if call.word == "UNKNOWN" else json.dumps({"state": call.word}))
                _, held = apply(held, call, 0)
            else:
                outcome, now = real(call, deadline_client)
                predicted, held = apply(held, call, now)
                last = call
                assert outcome == predicted, sequence[: number + 1]
            assert told(client) == expected(held), sequence[: number + 1]
            steps += 1
    deadline_client.close()
    print(f"{SEQUENCES} sequences, {steps} steps")
    assert steps > 3 * SEQUENCES
