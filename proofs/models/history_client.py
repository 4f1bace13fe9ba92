"""A process of clients that ask one breaker for this and that, and write down what they were told.

It takes a pickled flaw, or None, on its input and then pickled jobs, and answers each with a pickled list. It may be
stopped and continued at any moment.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from breaker import (
    BreakerError,
    BreakerUnavailable,
    CircuitBreaker,
    NotTripped,
    ResetRateLimited,
    State,
    StateConflict,
    TransitionEvent,
    requests,
    rules,
)
from breaker.keys import Keys
from breaker.rules import Limits, Rules
from breaker.state import Status
from breaker.uuid7 import uuid7
from proofs.models.breaker_rules import (
    GARBAGE,
    MISSING,
    OPEN,
    TRIPPED,
    ApiError,
    EndQuietPeriod,
    Initialize,
    Override,
    Reset,
    Transition,
    Trip,
)

KEYS = Keys.of()
THREADS = 2
ERROR_LIMIT = 3


@dataclass(frozen=True, slots=True)
class Job:
    """`calls` for each of the process's threads, against the breaker at `url`; `quiet` and `interval` in seconds."""

    url: str
    seed: int
    calls: int
    quiet: float
    interval: float
    timeout: float


@dataclass(frozen=True, slots=True)
class Flaw:
    """What to break in the scripts: their text `right` becomes `wrong`."""

    right: str
    wrong: str


@dataclass(frozen=True, slots=True)
class Read:
    """The status, as a caller sees it."""


@dataclass(frozen=True, slots=True)
class Look:
    """State, newest history member and newest outbox entry at one moment."""


Asked = Transition | ApiError | Override | Read | Look


@dataclass(frozen=True, slots=True)
class Answer:
    """`done`, `refused` with a word, `unheard` (it may have happened) or `nothing` (it can't have)."""

    kind: Literal["done", "refused", "unheard", "nothing"]
    word: str = ""
    epoch: int | None = None
    incident: str | None = None
    as_of: int | None = None
    newest: tuple[str | None, str | None] = (None, None)


@dataclass(frozen=True, slots=True)
class Told:
    """One call and its answer. Monotonic seconds and Unix microseconds, before and after."""

    asked: Asked
    answer: Answer
    called: float
    returned: float
    earliest: int
    latest: int


class Client:
    """One thread's breaker, and what it knows of it."""

    def __init__(self, job: Job, number: int) -> None:
        self.chance = random.Random(f"{job.seed} {number}")
        self.job = job
        self.plain: Any = redis.Redis.from_url(job.url, socket_timeout=job.timeout, retry=Retry(NoBackoff(), 0))
        settings: dict[str, Any] = {"quiet_period": job.quiet, "reset_interval": job.interval}
        self.breaker = CircuitBreaker(self.plain, timeout=job.timeout, **settings)
        self.rules = Rules(self.plain, limits=Limits(api_errors=ERROR_LIMIT), timeout=job.timeout)
        self.epoch: int | None = None

    def close(self) -> None:
        self.breaker.close()
        self.rules.close()
        self.plain.close()

    def run(self) -> list[Told]:
        with closing(self):
            return [self.one() for _ in range(self.job.calls)]

    def one(self) -> Told:
        asked, ask = self.choose()
        called, earliest = time.monotonic(), time.time_ns() // 1000
        try:
            answer = ask()
        except (redis.RedisError, OSError):
            answer = Answer("unheard")
        except BreakerError as error:
            answer = refusal(error)
        latest, returned = time.time_ns() // 1000, time.monotonic()
        self.epoch = answer.epoch or self.epoch
        return Told(asked, answer, called, returned, earliest, latest)

    def choose(self) -> tuple[Asked, Callable[[], Answer]]:
        event_id, incident, cb = uuid7(), uuid7(), self.breaker
        known = self.epoch if self.chance.random() < 0.5 else None
        pinned = "" if known is None else known
        match self.chance.choices(("trip", "reset", "end", "init", "error", "set", "read", "look"), WEIGHTS)[0]:
            case "trip":
                return Trip(event_id, incident), lambda: told(
                    cb.trip("MANUAL", tripped_by="me", event_id=event_id, incident_id=incident)
                )
            case "reset":
                quiet, interval = micros(self.job.quiet), micros(self.job.interval)
                return Reset(event_id, quiet, interval, pinned), lambda: told(
                    cb.reset("me", event_id=event_id, expected_epoch=known)
                )
            case "end":
                epoch = self.epoch or 0
                return EndQuietPeriod(event_id, epoch), lambda: told(
                    cb.end_quiet_period(expected_epoch=epoch, by="me", event_id=event_id)
                )
            case "init":
                force = self.chance.random() < 0.3
                return Initialize(event_id, force), lambda: told(cb.initialize_state(force, "me", event_id=event_id))
            case "error":
                return ApiError(event_id, incident, ERROR_LIMIT), lambda: self.error(event_id)
            case "set":
                word = self.chance.choice([TRIPPED, OPEN, GARBAGE])
                return Override(word), lambda: self.override(word)
            case "read":
                return Read(), lambda: told(cb.get_status())
        return Look(), self.look

    def error(self, name: str) -> Answer:
        return Answer("done", self.rules.record_api_error(name).verdict.value)

    def override(self, word: str) -> Answer:
        self.plain.set(KEYS.state, "garbage" if word == GARBAGE else json.dumps({"state": word}))
        return Answer("done")

    def look(self) -> Answer:
        pipe = self.plain.pipeline(transaction=True)
        pipe.get(KEYS.state).zrevrange(KEYS.history, 0, 0).xrevrange(KEYS.outbox, count=1)
        raw, history, outbox = pipe.execute()
        newest = (
            next((name_of(TransitionEvent.from_json(text)) for text in history), None),
            next((name_of(TransitionEvent.from_json(fields[b"event"])) for _, fields in outbox), None),
        )
        return Answer("done", *stored(raw), newest=newest)


WEIGHTS = (5, 7, 3, 2, 2, 0.7, 5, 4)


def stored(raw: bytes | None) -> tuple[str, int | None]:
    """The word and epoch that are written, whatever they mean by now."""
    if raw is None:
        return MISSING, None
    try:
        fields = json.loads(raw)
    except ValueError:
        return GARBAGE, None
    return fields["state"], fields.get("epoch")


def name_of(event: TransitionEvent) -> str:
    """What the call was named by: its event id, or the source of an error, since rules make ids of their own."""
    return str(event.details["source"]) if event.source == "rule" else event.event_id


def told(status: Status) -> Answer:
    if status.as_of is None:
        return Answer("unheard")
    as_of = round(status.as_of.timestamp() * 1_000_000)
    if status.state is State.UNKNOWN:
        return Answer("done", "UNKNOWN", as_of=as_of)
    return Answer("done", status.state.value, status.epoch, status.incident_id, as_of)


def refusal(error: BreakerError) -> Answer:
    match error:
        case BreakerUnavailable():
            return Answer("unheard" if error.may_have_happened else "nothing")
        case NotTripped():
            return Answer("refused", "NOT_TRIPPED")
        case ResetRateLimited():
            return Answer("refused", "RATE_LIMITED")
        case StateConflict():
            return Answer("refused", "CONFLICT")
    raise error


def micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


def break_scripts(flaw: Flaw) -> None:
    """From now on this process brings scripts to Redis in which `flaw.right` reads `flaw.wrong`."""
    sound = requests.load_script

    def load(name: str, *shared: str) -> requests.Script:
        text = sound(name, *shared).text.replace(flaw.right, flaw.wrong)
        return requests.Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    for module in (requests, rules):
        setattr(module, "load_script", cache(load))  # noqa: B010  they import it by name


def main() -> None:
    flaw: Flaw | None = pickle.load(sys.stdin.buffer)
    if flaw is not None:
        break_scripts(flaw)
    with ThreadPoolExecutor(THREADS) as threads:
        while True:
            try:
                job: Job = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            running = [threads.submit(Client(job, number).run) for number in range(THREADS)]
            pickle.dump([operations.result() for operations in running], sys.stdout.buffer)
            sys.stdout.buffer.flush()
