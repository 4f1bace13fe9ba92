"""The recovery's half of the matrix: every step of the checklist, while one part is away for some seconds.

Each cell is a whole incident on the served deployments, from its trip until it is OPEN again: two people answer as
soon as they are asked, a part is broken when the recovery reaches a step, and is well again `LASTS` seconds later.
Which way it is broken goes round from step to step, so that every way is met by some step; `ROTATE` turns it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

import httpx
import psutil
import redis
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from breaker import CircuitBreaker, TransitionEvent
from breaker.uuid7 import uuid7
from ledger.ledger import Ledger
from ledger.outbox import drain_outbox
from ledger.record import OK, AuditRow
from ledger.schema import upgrade
from ledger.verify import verify
from proofs.faults.suites import Say, Section, chosen
from proofs.fork_server import ForkServer
from proofs.proxy import Fault, FaultProxy
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.prefect_server import PrefectServer
from tasks.recovery.answers import AnswerNotTaken, submit_answer
from tasks.recovery.approval_rules import Approval, RootCause
from tasks.recovery.state import RecoveryState
from tests.helpers import eventually
from tests.ledger.servers import Postgres
from tests.services.served_stack import ServedStack, Service
from tests.tasks.web import Answer, Web

LASTS: Final = 3.0
"""Seconds that a part is away: longer than a step's own tries, shorter than people's patience."""
ENDS_WITHIN: Final = 150.0
STACKS: Final = 2
_RATE_LIMIT: Final = "circuit_breaker:reset_rate_limit"
_MORE: Final = """
[notifications]
slack = "http://127.0.0.1:{sink}/hook"
timeout = 2.0
"""
_CAUSE: Final = RootCause("bob", "data", "the quote feed went stale after its failover", "feed pinned to the primary")
_APPROVAL: Final = Approval("cyd", "feed pinned, data checked, book is flat", True, "")


class Part(StrEnum):
    REDIS = "redis"
    DATABASE = "postgres"
    PREFECT = "prefect"
    SINK = "notifications"
    PROCESS = "own process"


class Own(StrEnum):
    """What can happen to processes, beside what a proxy does to connections."""

    KILLED = "kill -9"
    FROZEN = "SIGSTOP"
    HOST_KILLED = "kill -9 of the host's"


Kind = Fault | Own
_CONNECTION: Final = (
    Fault.HUNG,
    Fault.REFUSED,
    Fault.LOST_RESPONSE,
    Fault.RESET,
    Fault.WRONG_ANSWERS,
    Fault.SLOW,
)
KINDS: Final[Mapping[Part, Sequence[Kind]]] = {
    Part.REDIS: (*_CONNECTION, Own.KILLED, Own.FROZEN),
    Part.DATABASE: (*_CONNECTION, Own.KILLED, Own.FROZEN),
    Part.PREFECT: (*_CONNECTION, Own.KILLED, Own.FROZEN),
    Part.SINK: _CONNECTION,
    Part.PROCESS: (Own.KILLED, Own.FROZEN, Own.HOST_KILLED),
}
_PHASES: Final = {
    "gathering evidence": "evidence",
    "waiting for a person: root-cause": "root cause",
    "measuring conditions": "conditions",
    "checking system health": "health",
    "waiting for a person: approval": "approval",
    "watching": "watch",
    "recovered: OPEN": "end",
}
STEPS: Final = (
    "trip",
    "evidence",
    "root cause",
    "conditions",
    "health",
    "pre-reset",
    "approval",
    "reset",
    "watch",
    "end",
)


@dataclass(frozen=True, slots=True)
class Cell:
    part: Part
    step: str
    kind: Kind

    @property
    def name(self) -> str:
        return f"recovery/{self.part}/{self.step}/{self.kind}"


@dataclass(frozen=True, slots=True)
class Outcome:
    cell: Cell
    seconds: float
    rounds: int
    broken: Sequence[str]

    @property
    def happened(self) -> str:
        return "OPEN" if self.rounds <= 1 else f"OPEN, the watch had tripped it {self.rounds - 1} times"

    def __str__(self) -> str:
        verdict = "RED" if self.broken else "ok "
        line = f"{verdict} {self.cell.name:<58} {self.seconds:6.1f} s  {self.happened}"
        return "\n".join([line, *(f"      {sentence}" for sentence in self.broken)])


def cells(rotate: int = 0) -> list[Cell]:
    """Every part at every step, once; what happens to it depends on both, and on `rotate`."""
    return [
        Cell(part, step, KINDS[part][(at + 3 * which + rotate) % len(KINDS[part])])
        for which, part in enumerate(Part)
        for at, step in enumerate(STEPS)
    ]


def reached(state: Mapping[str, Any], breaker: str) -> int:
    """How far in `STEPS` a recovery is, by its picture and the breaker's state; -1 before it has one."""
    if not state:
        return -1
    found = STEPS.index(_PHASES[state["phase"]]) if state["phase"] in _PHASES else 0
    ticked = {key for key, item in state["items"].items() if item["tick"] not in ("pending", "working")}
    if "latencies" in ticked:
        found = max(found, STEPS.index("pre-reset"))
    if breaker in ("QUIET_PERIOD", "OPEN"):
        found = max(found, STEPS.index("reset"))
    return found


class Incident:
    """One cell under way on a stack."""

    def __init__(self, stack: BreakableStack, cell: Cell) -> None:
        self.stack = stack
        self.cell = cell
        self.began = time.monotonic()
        self.incident_id = uuid7()
        self._answering: Future[None] | None = None
        self._answered: dict[str, float] = {}

    def run(self) -> Outcome:
        self.stack.breaker.trip(
            "MANUAL", details={"test": self.cell.name}, tripped_by="ada", incident_id=self.incident_id
        )
        broken_at: float | None = None
        healed = False
        while time.monotonic() - self.began < ENDS_WITHIN:
            state, breaker = self._look()
            if broken_at is None and (self.cell.step == "trip" or reached(state, breaker) >= self._step):
                self.stack.hurt(self.cell)
                broken_at = time.monotonic()
            if broken_at is not None and not healed and time.monotonic() - broken_at > LASTS:
                self.stack.heal()
                healed = True
            self._answer(state)
            if healed and state.get("done"):
                break
            time.sleep(0.01)
        self.stack.heal()
        broken = [] if broken_at is not None else [f"it never came to the step {self.cell.step!r}"]
        seconds = time.monotonic() - self.began
        return Outcome(self.cell, seconds, self._rounds(), [*broken, *self._judge()])

    @property
    def _step(self) -> int:
        return STEPS.index(self.cell.step)

    def _look(self) -> tuple[dict[str, Any], str]:
        """The picture and the breaker's state; neither while Redis itself is killed or frozen."""
        try:
            state = self.stack.served.state()
        except redis.RedisError:
            state = {}
        return (state if state.get("incident_id") == self.incident_id else {}), self.stack.breaker.get_state().value

    def _answer(self, state: Mapping[str, Any]) -> None:
        """As people would: soon, and again when asked again or when nobody seems to have heard."""
        question = state.get("question", "")
        if not question or (self._answering is not None and not self._answering.done()):
            return
        if time.monotonic() - self._answered.get(question, float("-inf")) < LASTS:
            return
        self._answered[question] = time.monotonic()
        answer = _CAUSE if state["waiting_for"] == "root-cause" else _APPROVAL
        self._answering = self.stack.people.submit(
            self.stack.give, RecoveryState(self.incident_id, "global", state["flow_run_id"]), answer
        )

    def _history(self) -> list[TransitionEvent]:
        """Of this incident, oldest first."""
        return [e for e in reversed(self.stack.breaker.get_history(limit=100)) if e.incident_id == self.incident_id]

    def _rounds(self) -> int:
        return sum(event.transition == "RESET" for event in self._history())

    def _judge(self) -> list[str]:
        """What promises are broken, as sentences."""
        with contextlib.closing(Ledger.connect(self.stack.served.ledger_url, timeout=10)) as ledger:
            drain_outbox(self.stack.served.client, ledger)
            rows = [row for row in _rows(ledger) if row.incident_id == self.incident_id]
            problem = verify(ledger).problem
        broken = [problem.sentence] if problem else []
        state, _ = self._look()
        if not state.get("done"):
            broken.append(f"not recovered: {state.get('phase')!r}, asked {state.get('question')!r}")
        history = self._history()
        broken += _broken_order([event.transition for event in history])
        recorded = Counter(row.id for row in rows)
        broken += [f"{e.transition} of epoch {e.epoch} is not on record" for e in history if e.event_id not in recorded]
        rounds = sum(event.transition == "RESET" for event in history)
        actions = Counter(row.action for row in rows if row.outcome == OK)
        for action, times in {
            "CIRCUIT_BREAKER_RESET": rounds,
            "RECOVERY_ROOT_CAUSE": rounds,
            "RECOVERY_FINISHED": 1,
        }.items():
            if actions[action] != times:
                broken.append(f"{actions[action]} rows {action}, not {times}")
        if state.get("done") and not Path(state.get("report_path") or "/nowhere").is_file():
            broken.append("there is no incident report")
        return broken


def _broken_order(transitions: Sequence[str]) -> list[str]:
    """Trips that are each followed by a reset; the last quiet period is ended by the watch, or by its own time."""
    word = " ".join(transitions)
    if re.fullmatch("TRIP RESET( TRIP RESET)*( QUIET_PERIOD_END)?", word):
        return []
    return [f"the transitions were {word}"]


def _rows(ledger: Ledger) -> Iterator[AuditRow]:
    for batch in ledger.stream():
        yield from map(AuditRow.from_raw, batch)


class BreakableStack:
    """The served deployments, with every part behind a proxy or a signal. Use it from the thread that made it."""

    def __init__(self, directory: Path) -> None:
        self._open = ExitStack()
        directory.mkdir(parents=True, exist_ok=True)
        self.redis = self._open.enter_context(EmbeddedRedis(directory / "redis"))
        self.prefect = self._open.enter_context(PrefectServer(directory / "prefect"))
        self.postgres = Postgres(directory / "postgres" / "data")
        self.postgres.start()
        self._open.callback(self.postgres.stop)
        database = self.postgres.create_database("audit")
        with contextlib.closing(Ledger.connect(database, timeout=30)) as ledger:
            upgrade(ledger)
        self.sink = self._open.enter_context(Web(lambda _: Answer(200, "ok")))
        ports = {
            Part.REDIS: self.redis.port,
            Part.DATABASE: self.postgres.port,
            Part.PREFECT: self.prefect.port,
            Part.SINK: self.sink.port,
        }
        self.proxies = {part: self._open.enter_context(FaultProxy(("127.0.0.1", port))) for part, port in ports.items()}
        service = Service()
        self._open.callback(service.close)
        client = redis.Redis(port=self.redis.port, socket_timeout=1)
        self.breaker = CircuitBreaker(client)
        self.breaker.initialize_state(by="tests")
        through = {part: proxy.port for part, proxy in self.proxies.items()}
        self.served = ServedStack(
            directory,
            client,
            self._open.enter_context(ForkServer()),
            redis_url=f"redis://127.0.0.1:{through[Part.REDIS]}/0",
            service=service,
            prefect=self.prefect,
            ledger_url=database,
            database_url=database.replace(f":{self.postgres.port}/", f":{through[Part.DATABASE]}/"),
            api_url=f"http://127.0.0.1:{through[Part.PREFECT]}/api",
            watch=1.5,
            more=_MORE.format(sink=through[Part.SINK]),
        )
        self.people = self._open.enter_context(ThreadPoolExecutor(1))
        self.served.serve()
        self._open.callback(self.served.kill_serving)
        self._wait_until_served()
        self._frozen: list[psutil.Process] = []
        self._undo: Callable[[], None] = lambda: None

    def _wait_until_served(self) -> None:
        def served() -> bool:
            count: int = httpx.post(f"{self.prefect.api_url}/deployments/count", json={}, timeout=10).json()
            return count >= 3

        eventually(served, "the deployments are not served", within=60, every=0.1)

    def close(self) -> None:
        self.heal()
        self._open.close()

    def give(self, state: RecoveryState, answer: RootCause | Approval) -> None:
        """A person's answer, straight to the orchestrator. One that isn't taken is given again later."""
        self.served.client.delete(_RATE_LIMIT)
        updates = {PREFECT_API_URL: self.prefect.api_url, PREFECT_CLIENT_MAX_RETRIES: 0}
        with temporary_settings(updates=updates), contextlib.suppress(AnswerNotTaken):
            asyncio.run(submit_answer(state, answer))

    def hurt(self, cell: Cell) -> None:
        if isinstance(cell.kind, Fault):
            self.proxies[cell.part].inject(cell.kind)
            self._undo = self.proxies[cell.part].heal
        elif cell.part is Part.PROCESS:
            self._hurt_process(cell.kind)
        elif cell.kind is Own.FROZEN:
            self._freeze(cell.part)
        else:
            self._kill(cell.part)

    def heal(self) -> None:
        for process in self._frozen:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
        self._frozen.clear()
        undo, self._undo = self._undo, lambda: None
        undo()

    def _hurt_process(self, kind: Own) -> None:
        """Of the recovery's process; of the worker, if none runs because people are waited for."""
        running = self.served.recovery_processes()
        assert self.served.serving is not None
        if kind is Own.HOST_KILLED or (kind is Own.KILLED and not running):
            self.served.kill_serving()
            self._undo = self.served.serve
        elif kind is Own.KILLED:
            for process in running:
                process.kill()
        else:
            self._frozen = running or [psutil.Process(self.served.serving.pid)]
            for process in self._frozen:
                process.suspend()

    def _freeze(self, part: Part) -> None:
        if part is Part.DATABASE:
            self.postgres.freeze()
            self._undo = self.postgres.thaw
            return
        assert self.redis.pid is not None
        self._frozen = [psutil.Process(self.redis.pid)] if part is Part.REDIS else self._prefect_processes()
        for process in self._frozen:
            process.suspend()

    def _kill(self, part: Part) -> None:
        if part is Part.REDIS:
            self.redis.kill()
            self._undo = self._start_redis
        elif part is Part.DATABASE:
            self.postgres.stop(signal.SIGKILL)
            self._undo = self.postgres.start
        else:
            for process in self._prefect_processes():
                process.kill()
            self._undo = self._start_prefect

    def _prefect_processes(self) -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if str(self.prefect.port) in child.cmdline()]

    def _start_redis(self) -> None:
        self.redis.start()

    def _start_prefect(self) -> None:
        self.prefect.stop()
        self.prefect.start()
        self.prefect.wait()


def run(only: str, say: Say) -> Section:
    """All cells whose names match, on two stacks at once."""
    began = time.monotonic()
    rotate = int(os.environ.get("ROTATE", "0"))
    every = [Cell(part, step, kind) for part in Part for step in STEPS for kind in KINDS[part]]
    wanted = [cell for cell in (cells(rotate) if only == "*" else every) if chosen(cell.name, only)]
    waiting: SimpleQueue[Cell] = SimpleQueue()
    for cell in wanted:
        waiting.put(cell)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="recovery-faults-") as directory:
        threads = [
            threading.Thread(target=_work, args=(Path(directory) / str(number), waiting, outcomes, say))
            for number in range(min(STACKS, len(wanted)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lost = len(wanted) - len(outcomes)
    if lost:
        say(f"RED {lost} cells of the recovery did not run")
    red = lost + sum(bool(outcome.broken) for outcome in outcomes)
    return Section("Recovery", _table(outcomes), len(wanted), red, time.monotonic() - began)


def _work(directory: Path, waiting: SimpleQueue[Cell], outcomes: list[Outcome], say: Say) -> None:
    """On one stack until a cell is red: what that left behind must not colour the next."""
    stacks = (BreakableStack(directory / str(number)) for number in itertools.count())
    stack = next(stacks)
    try:
        while True:
            outcome = Incident(stack, waiting.get_nowait()).run()
            outcomes.append(outcome)
            say(str(outcome))
            if outcome.broken:
                stack.close()
                stack = next(stacks)
    except Empty:
        pass
    finally:
        stack.close()


def _table(outcomes: Sequence[Outcome]) -> str:
    """One row a step, one column a part: what happened to the part, and the seconds from the trip until OPEN."""
    by = {(outcome.cell.step, outcome.cell.part): outcome for outcome in outcomes}
    lines = [
        "A whole incident a cell, from the trip until the breaker is OPEN again; people answer at once. The part is",
        f"away for {LASTS:g} s from the moment that the recovery is at the step; in brackets, seconds from trip to",
        "OPEN. *again*: the watch met the fault and tripped the breaker, as it must; the second round went through.",
        "",
        f"| step | {' | '.join(Part)} |",
        f"| --- |{' --- |' * len(Part)}",
    ]
    for step in STEPS:
        found = [by.get((step, part)) for part in Part]
        if any(found):
            lines.append(f"| {step} | {' | '.join(_in_table(outcome) for outcome in found)} |")
    return "\n".join(lines)


def _in_table(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    again = ", *again*" if outcome.rounds > 1 else ""
    red = "**RED** " if outcome.broken else ""
    return f"{red}{outcome.cell.kind} ({outcome.seconds:.0f} s{again})"
