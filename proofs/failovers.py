"""Fail over again and again while somebody trips and resets without a pause and gates judge orders all the time.

`python -m proofs.failovers` runs a primary, two replicas and three Sentinels, and takes the primary away: killed,
stopped (it comes back and still believes that it is one), or replaced in order. Lost is a trip that was acknowledged
and is not in the history of the primary afterwards. Wrong is an order that a gate let through later than
`max_staleness` after a trip that was not lost, and before the next reset was asked for.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast

import redis

from breaker import BreakerError, CircuitBreaker, Durability, open_redis
from breaker.gate import Gate, OrderIntent, Topology
from breaker.gate.clock import now as gate_now
from breaker.uuid7 import uuid7
from proofs.sentinels import WatchedServers
from sandbox.embedded_redis import EmbeddedRedis
from tests.helpers import eventually

EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence" / "failovers.md"
WAYS = KILLED, STOPPED, REPLACED = "killed", "stopped", "replaced"
BACKENDS: tuple[Literal["thread", "drain"], ...] = ("thread", "drain")
STALENESS = 0.2
CONFIG = {"min-replicas-to-write": "1", "min-replicas-max-lag": "2"}
_BACK_WITHIN = 60.0
"""Seconds that a Sentinel may take to make a replica of a primary that comes back."""


@dataclass
class Record:
    """What happened, as the threads that made it happen wrote it down."""

    confirmed: set[str] = field(default_factory=set)
    unconfirmed: set[str] = field(default_factory=set)
    made_at: list[tuple[float, float]] = field(default_factory=list)
    """When each trip was asked for and when it had been acknowledged, by the monotonic clock."""
    lost: list[str] = field(default_factory=list)
    """For each confirmed trip that is gone, how the primary was taken away."""
    lost_unconfirmed: list[str] = field(default_factory=list)
    trips: int = 0
    resets: int = 0
    refusals: int = 0
    checks: int = 0
    admitted: int = 0
    admitted_late: dict[int, list[str]] = field(default_factory=dict)
    """The trip, for each order that was let through in spite of it, by how many replicas its gate waits for."""
    halted: tuple[str, float] | None = None
    """By which trip, and since when on the gates' clock; None from when a reset is about to be asked for."""
    gone: set[str] = field(default_factory=set)
    """Trips that were acknowledged and are gone."""


class Operator(threading.Thread):
    """Trips, waits a moment, resets, and so on. A trip that gets no answer is asked for again, with the same id."""

    def __init__(self, url: str, replicas: int, record: Record, stop: threading.Event) -> None:
        super().__init__(name="operator")
        self._breaker = CircuitBreaker(
            open_redis(url), quiet_period=0, reset_interval=0, durability=Durability("replicas", replicas)
        )
        self._breaker.initialize_state()
        self._record, self._stop_asked = record, stop

    def run(self) -> None:
        while not self._stop_asked.is_set():
            self._trip()
            time.sleep(random.uniform(0, 5 * STALENESS))  # long enough to catch a gate that is late
            self._record.halted = None
            try:
                self._breaker.reset("operator", "so that there is something to trip")
                self._record.resets += 1
            except BreakerError:
                self._record.refusals += 1
            time.sleep(random.uniform(0, STALENESS))

    def _trip(self) -> None:
        event, asked = uuid7(), time.monotonic()
        while not self._stop_asked.is_set():
            try:
                status = self._breaker.trip("MANUAL", event_id=event)
            except BreakerError:
                self._record.refusals += 1
                continue
            self._record.made_at.append((asked, time.monotonic()))
            self._record.trips += 1
            self._record.halted = event, gate_now()
            if status.unconfirmed is None:
                self._record.confirmed.add(event)
            else:
                self._record.unconfirmed.add(event)
            return


class Trader(threading.Thread):
    """Asks a gate all the time."""

    def __init__(self, gate: Gate, replicas: int, record: Record, stop: threading.Event) -> None:
        super().__init__(name="trader")
        self._gate, self._record, self._stop_asked = gate, record, stop
        self._admitted_late = record.admitted_late.setdefault(replicas, [])

    def run(self) -> None:
        order = OrderIntent("AAPL", "buy", 1)
        while not self._stop_asked.wait(0.001):
            halted, at = self._record.halted, gate_now()
            admitted = bool(self._gate.check(order, 0))
            self._record.checks += 1
            self._record.admitted += admitted
            if admitted and halted is not None and self._record.halted is halted and at - halted[1] > STALENESS:
                self._admitted_late.append(halted[0])


def fail_over(watched: WatchedServers, way: str) -> float:
    """Take the primary away; returns when another had been promoted. The old one is back afterwards, as a replica."""
    time.sleep(random.uniform(0.5, 1.5))
    old = watched.primary
    if way == KILLED:
        old.kill()
    elif way == STOPPED:
        os.kill(old.pid or 0, signal.SIGSTOP)
    else:
        watched.ask_for_failover()
    watched.promoted(old)
    at = time.monotonic()
    time.sleep(random.uniform(0.5, 2))
    if way == KILLED:
        old.start()
    elif way == STOPPED:
        os.kill(old.pid or 0, signal.SIGCONT)
    eventually(lambda: _follows(old), "the old primary never came back as a replica", within=_BACK_WITHIN)
    watched.settled(2)
    return at


def _follows(old: EmbeddedRedis) -> bool:
    try:
        with redis.Redis(port=old.port, socket_timeout=1) as client:
            told = client.info("replication")
    except redis.RedisError:
        return False
    return bool(told["role"] == "slave" and told["master_link_status"] == "up")


def run(times: int, replicas: int) -> tuple[Record, dict[str, list[float]]]:
    """`replicas`: how many must have a trip before it counts as confirmed."""
    record, next_trips = Record(), dict[str, list[float]]()
    stop = threading.Event()
    with (
        tempfile.TemporaryDirectory() as home,
        WatchedServers(Path(home), replicas=2, sentinels=3, config=CONFIG) as watched,
    ):
        operator = Operator(watched.url, replicas, record, stop)
        gates = {
            Gate(watched.url, backend=backend, max_staleness=STALENESS, topology=Topology.replicated(number)): number
            for backend in BACKENDS
            for number in (1, 2)
        }
        threads = [operator, *(Trader(gate, number, record, stop) for gate, number in gates.items())]
        for thread in threads:
            thread.start()
        looker = CircuitBreaker(open_redis(watched.url), timeout=10)
        checked: set[str] = set()
        try:
            for number in range(times):
                way = WAYS[number % len(WAYS)]
                at = fail_over(watched, way)
                next_trips.setdefault(way, []).append(_next_trip(record, at))
                checked |= _look_for_lost(looker, record, checked, way)
                print(
                    f"{number + 1}: {way}, next trip {next_trips[way][-1] * 1000:.0f} ms after the promotion, "
                    f"lost {len(record.lost)}, wrong {wrong_of(record)}",
                    flush=True,
                )
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            for gate in gates:
                gate.close()
            looker.close()
    return record, next_trips


def _next_trip(record: Record, at: float) -> float:
    """How long after `at`, or after it was asked for if that was later, the next trip had been acknowledged."""

    def found() -> float | None:
        return next((made - max(asked, at) for asked, made in list(record.made_at) if made > at), None)

    return cast(float, eventually(found, "no trip", every=0.005))


def _look_for_lost(looker: CircuitBreaker, record: Record, checked: set[str], way: str) -> set[str]:
    """Among the newest transitions, which are far more than there were since the last look."""
    confirmed, unconfirmed = set(record.confirmed) - checked, set(record.unconfirmed) - checked
    kept = {event.event_id for event in looker.get_history(1_000)}
    record.gone |= (confirmed | unconfirmed) - kept
    record.lost += [way for _ in confirmed - kept]
    record.lost_unconfirmed += [way for _ in unconfirmed - kept]
    return confirmed | unconfirmed


def wrong_of(record: Record) -> str:
    return ", ".join(
        f"{sum(trip not in record.gone for trip in found)} where {number} must confirm"
        for number, found in sorted(record.admitted_late.items())
    )


def report(record: Record, next_trips: dict[str, list[float]], replicas: int) -> str:
    every = [seconds for found in next_trips.values() for seconds in found]
    rows = "\n".join(
        f"| {way} | {len(found)} | {_ms(found, 0.5)} | {_ms(found, 0.99)} | {_lost(record, way)} |"
        for way, found in (*next_trips.items(), ("any of these", every))
    )
    return f"""# Failovers under Sentinel

Written by `make failovers` on {datetime.now(UTC).date()}: a primary, two replicas and three Sentinels on one machine
(`min-replicas-to-write 1`, `min-replicas-max-lag 2`, `down-after-milliseconds 1000`). One thread trips and resets
without a pause; a trip counts as confirmed when {replicas} of the 2 replicas have it (`trip_replicas`). Four gates
(`thread` and `drain`, one and two replicas to confirm, `max_staleness` {STALENESS * 1000:.0f} ms) are asked all along.

| the primary was | failovers | next trip after the promotion, p50 | p99 | confirmed trips lost |
| --- | --- | --- | --- | --- |
{rows}

- {record.trips} trips, {len(record.confirmed)} of them confirmed; of the {len(record.unconfirmed)} that were reported
  as not confirmed {len(record.lost_unconfirmed)} were lost. {record.resets} resets. {record.refusals} calls got no
  answer or a refusal meanwhile and were repeated.
- {record.checks} checks, {record.admitted} of which let the order through. Later than `max_staleness` after a trip,
  confirmed or not, that was not lost: {wrong_of(record)}.

*Killed*: SIGKILL, and started again. *Stopped*: SIGSTOP, and let go on half a second to two seconds after the
promotion, when it still believes that it is the primary; a call that it holds when the promotion comes loses up to half
of its two seconds. *Replaced*: `SENTINEL FAILOVER` of a primary that is well; it goes on for a moment, so the next trip
may be its own, and is reported as not confirmed then. The times, from the promotion or from when the trip was asked for
if that was later, include everything up to the answer: the Sentinel that is asked, the connection, the replica that the
new primary needs before it takes a write, and the half second in which as many as asked for could confirm, which they
can't before the old primary is back. The p99 of some thirty is the longest.

With `trip_replicas = 1` confirmed trips were lost, a few in some twenty failovers: a primary that is replaced goes on
for some hundred milliseconds, two Sentinels may promote one replica each, and in both cases the other replica still
confirms what is lost a moment later. What all replicas have, none of them can be promoted without.
"""


def _lost(record: Record, way: str) -> int:
    return record.lost.count(way) if way in WAYS else len(record.lost)


def _ms(found: Sequence[float], share: float) -> str:
    return f"{sorted(found)[max(math.ceil(share * len(found)) - 1, 0)] * 1000:.0f} ms"


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m proofs.failovers", description=(__doc__ or "").split("\n")[0])
    options.add_argument("--times", type=int, default=100)
    options.add_argument("--replicas", type=int, default=2, help="how many must have a trip that counts as confirmed")
    options.add_argument("--write", action="store_true", help=f"write {EVIDENCE.name}")
    given = options.parse_args()
    record, next_trips = run(given.times, given.replicas)
    text = report(record, next_trips, given.replicas)
    print(text)
    if given.write:
        EVIDENCE.write_text(text, encoding="utf-8")
    return 1 if record.lost else 0


if __name__ == "__main__":
    sys.exit(main())
