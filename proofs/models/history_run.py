"""Histories of several processes on a real server under faults: made, put together, and judged."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import redis

from breaker import TransitionEvent
from breaker.keys import Keys
from proofs.models.breaker_history import (
    Action,
    Agreement,
    Between,
    Change,
    Everything,
    Moment,
    Refusal,
    Seen,
    step,
)
from proofs.models.breaker_rules import TRIPPED, UNCHANGED, ApiError, Initialize, Override, Record, Transition
from proofs.models.history_client import Flaw, Job, Look, Read, Told, name_of
from proofs.models.linearizability import Operation, Verdict, check
from proofs.proxy import Fault, FaultProxy
from sandbox.embedded_redis import EmbeddedRedis

KEYS = Keys.of()
PROCESSES = 3
DATABASES = 500
"""Histories per server; each has a database of its own, so that what comes late from one is not seen by another."""
TIMEOUT = 0.25
ATTEMPT_AT_LEAST = 0.008
"""Seconds before the library sends anything again, so that a shorter call was sent once."""
CONFLICTS = ("EPOCH_DIFFERS", "INCIDENT_DIFFERS", "NOT_QUIET", "GARBAGE", "IN_FORCE")


@dataclass(frozen=True, slots=True)
class History:
    seed: int
    operations: tuple[Operation[Action], ...]
    faults: tuple[str, ...]
    calls: int
    unheard: int


@dataclass(slots=True)
class Tally:
    """What a run came to."""

    histories: int = 0
    calls: int = 0
    transitions: int = 0
    unheard: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0
    violations: list[str] = field(default_factory=list)

    def add(self, history: History, verdict: Verdict, took: float) -> None:
        self.histories += 1
        self.calls += history.calls
        self.unheard += history.unheard
        self.transitions += sum(isinstance(operation.action, Change) for operation in history.operations)
        self.faults.update(history.faults)
        self.longest = max(self.longest, took)
        if not verdict.is_linearizable:
            self.violations.append(explain(history, verdict))

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items())) or "none"
        return (
            f"{self.histories} histories, {self.calls} calls, {self.transitions} changes, {self.unheard} of unknown "
            f"outcome; faults: {faults}; longest check {self.longest * 1000:.0f} ms; {len(self.violations)} violations"
        )


def judge(history: History) -> tuple[Verdict, float]:
    begin = time.perf_counter()
    verdict = check(history.operations, Moment(), step)
    return verdict, time.perf_counter() - begin


def explain(history: History, verdict: Verdict) -> str:
    """The history as far as an order was found, and what was left, one operation a line."""
    operations = history.operations
    left = [index for index in range(len(operations)) if index not in verdict.longest]
    begin = min(operation.called for operation in operations)

    def line(index: int) -> str:
        operation = operations[index]
        called, returned = ((at - begin) * 1000 for at in (operation.called, operation.returned))
        return f"{called:8.1f} … {returned:6.1f} ms  {_short(repr(operation.action))}"

    lines = [f"seed {history.seed}, faults {', '.join(history.faults) or 'none'}"]
    lines += [f"    {line(index)}" for index in verdict.longest]
    lines += [f" ?  {line(index)}" for index in sorted(left, key=lambda index: operations[index].called)]
    return "\n".join(lines)


def _short(text: str) -> str:
    """Without what a reader does not need to find his way: most of each id, and the clock around each call."""
    text = re.sub(r"'[0-9a-f]{8}-[0-9a-f-]{19}([0-9a-f]{8})'", r"\1", text)
    return re.sub(r"(, )?between=Between\(.*?\)", "", text)


class Stage:
    """A server, a proxy before it, and processes of clients."""

    def __init__(self, directory: Path, flaw: Flaw | None = None) -> None:
        self._directory = directory
        self._served = 0
        self._server = self._new_server()
        self._proxy = FaultProxy(("127.0.0.1", self._server.port), delay=0.02)
        self._clients = [_start(flaw) for _ in range(PROCESSES)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        for client in self._clients:
            client.send_signal(signal.SIGCONT)
            client.kill()
            client.communicate()
        self._proxy.close()
        self._server.stop()

    def history(self, seed: int) -> History:
        """One history, of which `seed` decides everything but the timing."""
        if self._served % DATABASES == 0 and self._served:
            self._server.stop()
            self._server = self._new_server()
            self._proxy.lead_to(("127.0.0.1", self._server.port))
        database = self._served % DATABASES
        self._served += 1
        chance = random.Random(seed)
        job = Job(
            url=f"redis://127.0.0.1:{self._proxy.port}/{database}",
            seed=seed,
            calls=chance.randint(2, 6),
            quiet=chance.choice([0.0, 0.02, 0.1, 300.0]),
            interval=chance.choice([0.0, 0.03, 0.1, 60.0]),
            timeout=TIMEOUT,
        )
        for number, client in enumerate(self._clients):
            _tell(client, replace(job, seed=seed * PROCESSES + number))
        faults = tuple(self._disturb(chance))
        self._proxy.heal()
        told = [one for client in self._clients for one in _hear(client)]
        return put_together(seed, told, self._records(database), faults, time.monotonic())

    def _new_server(self) -> EmbeddedRedis:
        directory = self._directory / str(self._served)
        return EmbeddedRedis(directory, config={"databases": str(DATABASES)}).start()

    def _disturb(self, chance: random.Random) -> Iterator[str]:
        """Half of the histories are left alone. Yields each fault once it is over."""
        if chance.random() < 0.5:
            return
        kinds: Mapping[str, tuple[float, Callable[[random.Random], None]]] = {
            "cut": (3, lambda _: self._proxy.cut()),
            "hung": (2, lambda chance: self._inject(Fault.HUNG, chance)),
            "lost response": (3, lambda chance: self._inject(Fault.LOST_RESPONSE, chance)),
            "slow": (1, lambda chance: self._inject(Fault.SLOW, chance)),
            "reset": (1, lambda chance: self._inject(Fault.RESET, chance)),
            "client stopped": (2, lambda chance: _stop(chance.choice(self._clients).pid, chance)),
            "server stopped": (2, lambda chance: _stop(self._server.pid, chance)),
            "server killed": (1, lambda _: self._restart()),
        }
        for _ in range(chance.randint(1, 3)):
            time.sleep(chance.uniform(0, 0.01))
            name = chance.choices([*kinds], [weight for weight, _ in kinds.values()])[0]
            kinds[name][1](chance)
            yield name

    def _inject(self, fault: Fault, chance: random.Random) -> None:
        self._proxy.inject(fault)
        time.sleep(chance.choice([0.003, 0.01, 0.05, TIMEOUT * 1.2]))
        self._proxy.heal()

    def _restart(self) -> None:
        self._server.kill()
        self._server.start()

    def _records(self, database: int) -> tuple[tuple[Record, ...], tuple[Record, ...], Between]:
        client: Any = redis.Redis.from_url(f"redis://127.0.0.1:{self._server.port}/{database}")
        with contextlib.closing(client):
            pipe = client.pipeline(transaction=True)
            history, outbox = pipe.zrange(KEYS.history, 0, -1).xrange(KEYS.outbox).execute()
        now = time.time_ns() // 1000
        return (
            tuple(_record(member) for member in history),
            tuple(_record(fields[b"event"]) for _, fields in outbox),
            Between(now, now),
        )


def _start(flaw: Flaw | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from proofs.models.history_client import main; main()"]
    root = Path(__file__).parents[2]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)
    _tell(client, flaw)
    return client


def _tell(client: subprocess.Popen[bytes], what: Flaw | Job | None) -> None:
    assert client.stdin is not None
    pickle.dump(what, client.stdin)
    client.stdin.flush()


def _hear(client: subprocess.Popen[bytes]) -> list[Told]:
    assert client.stdout is not None
    return [one for thread in pickle.load(client.stdout) for one in thread]


def _stop(pid: int | None, chance: random.Random) -> None:
    """SIGSTOP for a while, which may be longer than a client waits."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    time.sleep(chance.choice([0.003, 0.02, 0.1, TIMEOUT * 1.2]))
    os.kill(pid, signal.SIGCONT)


def _record(text: bytes) -> Record:
    event = TransitionEvent.from_json(text)
    at = round(event.at.timestamp() * 1_000_000)
    return Record(
        name_of(event),
        event.transition.value,
        event.from_state,
        event.to_state,
        event.epoch,
        event.incident_id,
        at,
    )


def put_together(
    seed: int,
    told: Sequence[Told],
    records: tuple[tuple[Record, ...], tuple[Record, ...], Between],
    faults: tuple[str, ...],
    now: float,
) -> History:
    """What was told and what was recorded, as operations for the checker.

    The record is itself an operation, the last one. It tells when a transition happened, and which of those that
    nobody heard of did; one that happened without being recorded, or is recorded without having happened, leaves the
    checker without an order.
    """
    history, outbox, end = records
    recorded = {record.event_id: record for record in outbox}
    operations: list[Operation[Action]] = []
    for one in told:
        _add(operations, one, recorded, end, now)
    operations.append(Operation(Everything(history, outbox), now, now))
    unheard = sum(one.answer.kind == "unheard" and not isinstance(one.asked, Read | Look) for one in told)
    return History(seed, tuple(operations), faults, len(told), unheard)


def _add(
    operations: list[Operation[Action]], one: Told, recorded: Mapping[str, Record], end: Between, now: float
) -> None:
    between = Between(one.earliest, one.latest)
    at_large = Between(one.earliest, end.latest)
    answer, asked = one.answer, one.asked

    def add(action: Action, returned: float = one.returned, after: int | None = None) -> None:
        operations.append(Operation(action, one.called, returned, after))

    match asked, answer.kind:
        case (Read() | Look(), "unheard"):
            pass
        case (Read(), _):
            add(_seen(one, between))
        case (Look(), _):
            add(Agreement(answer.word, answer.epoch, *answer.newest))
        case (Override(), "done"):
            add(Change(asked, between))
        case (Override(), _):
            add(Change(asked, at_large), math.inf)
        case (ApiError(), _):
            _add_error(add, one, recorded.get(asked.event_id), at_large)
        case (_, "unheard"):
            if record := recorded.get(asked.event_id):
                add(Change(asked, at_large, record.at), now)
        case (Initialize(), "done") if asked.event_id not in recorded:
            add(Refusal(asked, (UNCHANGED,), between))
            add(_seen(one, between), after=len(operations) - 1)
        case (_, "done"):
            done = recorded.get(asked.event_id)
            add(Change(asked, between, done and done.at))
            add(_seen(one, between), after=len(operations) - 1)
        case (_, "refused"):
            outcomes = CONFLICTS if answer.word == "CONFLICT" else (answer.word,)
            if not _meant_another_state(asked, answer.word):
                add(Refusal(asked, outcomes, between))


def _meant_another_state(asked: Transition, word: str) -> bool:
    """A reset without an expected epoch takes that of the state that it finds first, which nobody was told."""
    return word == "CONFLICT" and getattr(asked, "epoch", None) == ""


def _seen(one: Told, between: Between) -> Seen:
    answer = one.answer
    assert answer.as_of is not None
    return Seen(answer.word, answer.epoch, answer.incident, answer.as_of, between)


def _add_error(add: Callable[..., None], one: Told, record: Record | None, at_large: Between) -> None:
    """An error that is sent again counts once, but is judged each time: it may trip the second time."""
    call = one.asked
    assert isinstance(call, ApiError)
    if record is not None and record.incident is not None:
        call = replace(call, incident=record.incident)
    between = Between(one.earliest, one.latest)
    once = one.returned - one.called < ATTEMPT_AT_LEAST
    if not once:
        add(Change(call, at_large, outcome=None), math.inf)
    if record is not None:
        add(Change(call, at_large, record.at, TRIPPED), one.returned if one.answer.word == TRIPPED else math.inf)
    if one.answer.kind == "done" and not (record is not None and one.answer.word == TRIPPED):
        add(Change(call, between, outcome=one.answer.word))
