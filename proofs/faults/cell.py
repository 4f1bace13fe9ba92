"""One cell of the matrix: the real command, held where a step begins, hurt there, let go, and judged afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx
import redis

from breaker import CircuitBreaker
from ledger.ledger import Ledger
from ledger.record import AuditRow
from ledger.spool import Spool
from ledger.verify import verify
from proofs.faults.judgement import FLAT, NOT_HALTED, Evidence, Facts, Run, broken_promises
from proofs.faults.matrix import Cell, Scene
from proofs.faults.stack import Place, Stack
from sandbox.child_process import Child

HELD_WITHIN = 60.0
ENDS_WITHIN = 110.0
"""Seconds; longer than any wait of the command, all of them added up."""
DEADLINE = 60.0
HOPELESS_DEADLINE = 6.0
_UNPRIVILEGED = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]

_ENDS = {None: "killed", 0: "flat", 3: "not proven flat", 4: "halt not proven"}
_PARTS = {
    "ledger": "ledger",
    "audit records": "disk",
    "Prefect": "Prefect",
    "pagerduty": "notification",
    "confirmed": "confirmation",
}
"""Of what the command did without, by a word of the line that says so."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`halted` and `flat`: seconds from the first start until Redis and the venue said so."""

    name: str
    halted: float | None
    flat: float | None
    broken: Sequence[str]
    seconds: float
    evidence: Evidence

    @property
    def without(self) -> list[str]:
        """The parts that the command said it did without."""
        lines = self.evidence.first.without
        return sorted({part for word, part in _PARTS.items() if any(word in line for line in lines)})

    @property
    def happened(self) -> str:
        told = [_ENDS.get(run.status, f"exit {run.status}") for run in self.evidence.runs]
        without = f" (without {', '.join(self.without)})" if self.without else ""
        return "; again: ".join(told) + without

    def __str__(self) -> str:
        verdict = "ok " if not self.broken else "RED"
        line = f"{verdict} {self.name:<42} halted {_s(self.halted)} flat {_s(self.flat)}  {self.happened}"
        if not self.broken:
            return line
        screens = [f"      | {said.rstrip()}" for run in self.evidence.runs for said in run.screen.splitlines()]
        return "\n".join([line, *(f"      {sentence}" for sentence in self.broken), *screens])


@dataclass
class Kill:
    """A `breaker kill --yes` that runs; with `hold`, until that step and no further."""

    place: Place
    hold: str = ""
    wrapper: Sequence[str] = ()
    steps: list[str] = field(default_factory=list)
    screen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        announced, theirs = os.pipe()
        orders, self._orders = os.pipe()
        shown, screen = os.pipe()
        self._shown = os.fdopen(shown)
        self._process = self._start(theirs, orders, screen)
        for descriptor in (theirs, orders, screen):
            os.close(descriptor)
        self._held = threading.Event()
        self._threads = [
            threading.Thread(target=self._read_steps, args=(announced,), daemon=True),
            threading.Thread(target=self._read_screen, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _start(self, announce: int, orders: int, screen: int) -> Child:
        module, streams = "proofs.faults.held_kill", (announce, orders)
        arguments = [*map(str, streams), self.hold or "-", "--operator", "faults", "--reason", "the fault suite"]
        environment, directory = dict(self.place.environment), self.place.directory
        forks = self.place.stack.fork_server
        if forks is not None and not self.wrapper:
            return forks.start(
                module, *arguments, env=environment, cwd=directory, stdout=screen, stderr=screen, pass_fds=streams
            )
        return subprocess.Popen(
            [*self.wrapper, sys.executable, "-m", module, *arguments],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=screen,
            stderr=screen,
            pass_fds=streams,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_held(self) -> bool:
        """False if it ended before, or takes too long."""
        return self._held.wait(HELD_WITHIN) and self.steps[-1] == self.hold

    def go_on(self, order: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it was killed
            os.write(self._orders, f"{order}\n".encode())

    def ends_within(self, seconds: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll() is not None

    def result(self) -> Run:
        """Wait for its end; make it end if it takes too long."""
        overran = not self.ends_within(ENDS_WITHIN)
        if overran:
            self._process.kill()
        status = self._process.wait()
        os.close(self._orders)
        for thread in self._threads:
            thread.join(5)
        seconds = time.monotonic() - self.began
        return Run(None if status < 0 else status, "".join(self.screen), list(self.steps), seconds, overran)

    def _read_steps(self, announced: int) -> None:
        with os.fdopen(announced) as lines:
            for line in lines:
                self.steps.append(line.strip())
                if self.steps[-1] == self.hold:
                    self._held.set()
        self._held.set()

    def _read_screen(self) -> None:
        with self._shown as lines:
            self.screen.extend(lines)


def run_cell(stack: Stack, cell: Cell) -> Outcome:
    began = time.monotonic()
    with stack.fresh(deadline=HOPELESS_DEADLINE if cell.hopeless else DEADLINE) as place:
        started = time.time()
        runs = [_hurt_run(place, cell)]
        left = _facts(place)
        if not _recorded(left):
            _command(place, "audit", "drain")
        if runs[0].status not in (FLAT, NOT_HALTED) or not left.flat:
            place.configure(DEADLINE)
            runs.append(Kill(place).result())
        end = _facts(place)
        if not _recorded(end):
            _command(place, "audit", "drain")
            end = _facts(place)
        flat_at = end.venue["flat_at"]
        now = time.time()
    evidence = Evidence(cell.component, cell.step, cell.ends_process, cell.hopeless, runs, left, end)
    return Outcome(
        cell.name,
        end.trips[0].at.timestamp() - started if end.trips else None,
        None if flat_at is None else now - started - (end.venue["now"] - flat_at),
        broken_promises(evidence),
        time.monotonic() - began,
        evidence,
    )


def _hurt_run(place: Place, cell: Cell) -> Run:
    wrapper = _UNPRIVILEGED if cell.needs_permissions and os.geteuid() == 0 else []
    kill = Kill(place, cell.step, wrapper)
    if kill.wait_until_held():
        kill.go_on(cell.kind.inject(Scene(place.stack, place, kill)))
        if cell.kind.lasts is not None and not kill.ends_within(cell.kind.lasts):
            place.stack.heal()
    run = kill.result()
    place.make_writable()
    place.stack.heal()
    return run


def _facts(place: Place) -> Facts:
    stack = place.stack
    with contextlib.closing(redis.Redis(port=stack.redis.port)) as client:
        breaker = CircuitBreaker(client)
        state, history = breaker.get_state().value, breaker.get_history(limit=100)
    trips = [event for event in reversed(history) if event.transition == "TRIP"]
    with contextlib.closing(Ledger.connect(place.ledger_url, timeout=10)) as ledger:
        rows = [AuditRow.from_raw(raw) for batch in ledger.stream() for raw in batch]
        problem = verify(ledger).problem
    spool = Spool(place.state / "spool")
    known = [*(e.incident_id for e in trips), *(r.incident_id for r in rows), *(r.incident_id for r in spool.records())]
    incident = next(filter(None, known), None)
    return Facts(
        state=state,
        trips=trips,
        rows=rows,
        broken_chain=problem.sentence if problem else "",
        venue=stack.exchange.report(),
        told=len(stack.sink.asked),
        in_prefect=incident is not None and _in_prefect(stack, incident),
        waiting=spool.pending() or any(place.state.glob("pending_trips/*.json")),
    )


def _in_prefect(stack: Stack, incident: str) -> bool:
    def asked(what: str, query: Mapping[str, object]) -> list[dict[str, object]]:
        answer = httpx.post(f"{stack.prefect.api_url}/{what}/filter", json=query, timeout=10)
        answer.raise_for_status()
        found: list[dict[str, object]] = answer.json()
        return found

    this_run = {"flow_runs": {"name": {"any_": [f"kill-switch-{incident}"]}}}
    ended = any(run["state_type"] in ("COMPLETED", "FAILED") for run in asked("flow_runs", this_run))
    return ended and any(artifact["key"] == "kill-switch-report" for artifact in asked("artifacts", this_run))


def _recorded(facts: Facts) -> bool:
    recorded = {row.id for row in facts.rows}
    return not facts.waiting and all(event.event_id in recorded for event in facts.trips)


def _command(place: Place, *arguments: str) -> None:
    environment, directory = dict(place.environment), place.directory
    if (forks := place.stack.fork_server) is not None:
        forks.run("cli", *arguments, env=environment, cwd=directory, timeout=ENDS_WITHIN)
        return
    subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=ENDS_WITHIN,
        check=False,
    )


def _s(value: float | None) -> str:
    return "     —" if value is None else f"{value:5.1f}s"


def can_drop_permissions() -> bool:
    """Whether a cell can run as somebody whom permissions bind: root goes by way of a user namespace."""
    if os.geteuid() != 0:
        return True
    unshare = shutil.which(_UNPRIVILEGED[0])
    return bool(unshare) and subprocess.run([*_UNPRIVILEGED, "true"], check=False, capture_output=True).returncode == 0
