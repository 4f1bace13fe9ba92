"""Which faults happen when, from a seed; and how each is made."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from proofs.proxy import Fault as LineFault
from proofs.soak.stack import Part, Stack

MEAN_PAUSE = 12.0
"""Seconds between two faults, on average."""
SHIFTS = (("redis", "standby"), ("database", "serve"), ("prefect",))
"""What is killed in each third of the time. Whatever is killed all the time never lives long enough to show a leak."""
STOPPED = ("redis", "database", "prefect", "serve", "standby", "console")
LINE_FAULTS = (LineFault.RESET, LineFault.HUNG, LineFault.SLOW, LineFault.LOST_RESPONSE, LineFault.REFUSED)
KILL, STOP = "kill -9", "SIGSTOP"


@dataclass(frozen=True, slots=True)
class Fault:
    """`at`: seconds from the begin; `lasts`: seconds until it is put right."""

    at: float
    kind: str
    target: str
    lasts: float

    @property
    def name(self) -> str:
        return f"{self.target}: {self.kind}"


def plan(seed: int, seconds: float) -> Iterator[Fault]:
    """Every fault of a soak of that length, in order of time."""
    random, at = Random(seed), 0.0
    while (at := at + max(2.0, random.expovariate(1 / MEAN_PAUSE))) < seconds:
        shift = SHIFTS[min(int(at / seconds * len(SHIFTS)), len(SHIFTS) - 1)]
        match random.choices(("kill", "stop", "line"), (0.25, 0.3, 0.45))[0]:
            case "kill":
                yield Fault(at, KILL, random.choice(shift), random.uniform(0.1, 4.0))
            case "stop":
                yield Fault(at, STOP, random.choice(STOPPED), 1.0)
            case _:
                kind = random.choice(LINE_FAULTS)
                line = random.choice(("redis", "database", "venue"))
                yield Fault(at, f"line {kind.value}", line, random.uniform(0.2, 2.5))


class Faults:
    """Makes faults, and starts again what ended. To be used by a thread that outlives everything it starts."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.made: Counter[str] = Counter()
        self.ended_alone: list[str] = []
        """Parts that ended without having been killed."""
        self.problems: list[str] = []

    def make(self, fault: Fault) -> None:
        """Make it, wait until it is over, and put it right; what doesn't start again is one of the problems."""
        self.made[fault.name] += 1
        self._try(fault)

    def _try(self, fault: Fault) -> None:
        try:
            self._make(fault)
        except Exception as error:  # the other faults are made all the same
            self.problems.append(f"after {fault.name}: {type(error).__name__}: {error}")

    def _make(self, fault: Fault) -> None:
        if fault.kind == KILL:
            part = self._stack.parts[fault.target]
            part.kill()
            time.sleep(fault.lasts)
            part.start()
        elif fault.kind == STOP:
            self._stop_for_a_while(self._stack.parts[fault.target], fault.lasts)
        else:
            line = self._stack.lines[fault.target]
            line.inject(LineFault(fault.kind.removeprefix("line ")))
            time.sleep(fault.lasts)
            line.heal()

    def restart_what_ended(self) -> None:
        """As a supervisor does."""
        for name, part in self._stack.parts.items():
            if part.pid is None:
                self.ended_alone.append(name)
                self._try(Fault(0.0, KILL, name, 0.1))

    def _stop_for_a_while(self, part: Part, seconds: float) -> None:
        if (pid := part.pid) is None:
            return
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)
