"""Eight processes that trip, reset and trip again on one server."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis

from breaker import TransitionEvent
from breaker.keys import Keys
from proofs.fork_server import ForkServer
from sandbox.embedded_redis import EmbeddedRedis
from tests.helpers import FULL, eventually

KEYS = Keys.of()
PROCESSES = 8
OPERATIONS = 10_000 if FULL else 2_000
QUIET = 0.005

# Prints what was acknowledged: event id, state and epoch.
WORKER = """
import random, sys, redis
from breaker import CircuitBreaker, NotTripped, StateConflict
from breaker.uuid7 import uuid7
url, seed, count, quiet = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
chance = random.Random(seed)
cb = CircuitBreaker(redis.Redis.from_url(url), timeout=30, reset_interval=0, quiet_period=quiet)
for number in range(count):
    event_id = uuid7()
    try:
        match chance.choice(["trip", "reset", "reset", "end"]):
            case "trip":
                status = cb.trip("MANUAL", {"operator": f"worker-{seed}", "number": number}, event_id=event_id)
            case "reset":
                status = cb.reset(f"worker-{seed}", event_id=event_id)
            case "end":
                status = cb.end_quiet_period(expected_epoch=cb.get_status().epoch or 0, event_id=event_id)
    except (NotTripped, StateConflict):
        continue
    print(event_id, status.state, status.epoch)
"""


def legal(before: TransitionEvent, after: TransitionEvent) -> bool:
    """Whether `after` may follow `before`, and whether it says truly what it found."""
    if after.transition == "RESET":
        follows = before.to_state == "TRIPPED"
    elif after.transition == "QUIET_PERIOD_END":
        follows = before.to_state == "QUIET_PERIOD"
    else:
        follows = after.transition == "TRIP" and after.to_state == "TRIPPED"
    found = before.to_state
    if after.transition == "TRIP" and found == "QUIET_PERIOD" and after.at >= before.at + timedelta(seconds=QUIET):
        found = "OPEN"
    same_incident = after.incident_id == before.incident_id
    return follows and after.from_state == found and same_incident == (found != "OPEN")


@pytest.mark.parametrize("crashes", [0, 3])
def test_promise_4_state_history_and_outbox_agree_and_no_trip_is_undone(
    tmp_path: Path, fork_server: ForkServer, crashes: int
) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        client: Any = redis.Redis.from_url(server.url)
        workers = []
        for seed in range(PROCESSES):
            arguments = [server.url, str(seed), str(OPERATIONS // PROCESSES), str(QUIET)]
            with (tmp_path / f"{seed}.txt").open("w") as output:
                workers.append(fork_server.start("-c", WORKER, *arguments, stdout=output))
        for crash in range(1, crashes + 1):
            eventually(lambda crash=crash: client.xlen(KEYS.outbox) >= crash * OPERATIONS // 20, within=60, every=0.005)  # type: ignore[misc]
            server.kill()
            server.start()
        assert [worker.wait(100) for worker in workers] == [0] * PROCESSES

        events = [TransitionEvent.from_json(fields[b"event"]) for _, fields in client.xrange(KEYS.outbox)]
        history = [TransitionEvent.from_json(member) for member in client.zrange(KEYS.history, 0, -1)]
        state = json.loads(client.get(KEYS.state))
        client.close()

    printed = "".join((tmp_path / f"{seed}.txt").read_text() for seed in range(PROCESSES))
    acknowledged = [line.split() for line in printed.splitlines()]
    assert len(events) > OPERATIONS // 5
    assert {event.event_id for event in events} == {event_id for event_id, _, _ in acknowledged}
    assert len({event.event_id for event in events}) == len(events) == len(acknowledged)
    assert [event.epoch for event in events] == list(range(events[0].epoch, events[0].epoch + len(events)))
    assert history == sorted(events[-1_000:], key=lambda event: (event.at, event.raw))
    assert (state["state"], state["epoch"], state["incident_id"]) == (
        events[-1].to_state, events[-1].epoch, events[-1].incident_id,
    )  # fmt: skip
    broken = [(a, b) for a, b in pairwise(events) if not legal(a, b)]
    assert broken == []
    if not crashes:
        by_id = {event.event_id: event for event in events}
        assert all((by_id[i].to_state, by_id[i].epoch) == (word, int(epoch)) for i, word, epoch in acknowledged)
