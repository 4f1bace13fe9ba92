"""Record a procedure's I/O, let it die at each, start it again, and judge. Several worlds at once."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from proofs.crash_points.boundary import Death, Point, Side
from proofs.crash_points.environment import CrashEnvironment
from proofs.crash_points.exposure import Exposure, exposure
from proofs.crash_points.procedures import Procedure
from proofs.crash_points.verdict import closes_repeated, faults


@dataclass(frozen=True, slots=True)
class Trial:
    procedure: Procedure
    death: Death

    def __str__(self) -> str:
        return f"{self.procedure.name}, killed {self.death}"


@dataclass(frozen=True, slots=True)
class Outcome:
    trial: Trial
    reached: bool
    """False if the run ended without coming to that I/O: how often some of them occur depends on timing."""
    faults: Sequence[str]
    flat_after: float | None
    """Seconds from the first run's start to flat at the venue, its death and the second start included."""
    closed_again: int
    """Symbols whose close the second run took back and sent anew."""
    exposure: Exposure
    """Positions that had neither stop nor close at work."""


def record(environment: CrashEnvironment, procedure: Procedure) -> list[Point]:
    """Every I/O of an undisturbed run that is to be tried. Asserts that the run keeps every promise."""
    with environment.case(procedure) as case:
        run = case.run()
        broken = faults(procedure, case.evidence(frozenset()), run.ended)
        assert not broken, f"{procedure.name}, undisturbed: {broken}\n{run.ended.said}"
    seen = any(point.label.startswith("Prefect POST") for point in run.points)
    assert seen or not procedure.under_prefect, (
        f"{procedure.name}: the orchestrator had no part in it\n{run.ended.said}"
    )
    return [point for point in run.points if point.label.startswith(tuple(procedure.only))]


def deaths(points: Iterable[Point]) -> list[Death]:
    return [Death(point, side) for point in points for side in Side]


def attempt(environment: CrashEnvironment, trial: Trial) -> Outcome:
    """Kill it there, start it again, and see what is the case."""
    with environment.case(trial.procedure) as case:
        first = case.run(trial.death)
        died_at = environment.exchange_time if first.ended.killed else None
        if trial.procedure.host_lost:
            case.lose_host()
        kept = case.kept()
        restarted_at = environment.exchange_time
        again = case.run()
        evidence = case.evidence(kept)
    broken = faults(trial.procedure, evidence, again.ended)
    if not first.ended.killed and first.ended.status not in trial.procedure.statuses:
        broken.append(f"not killed, it ended with {first.ended.status}: {first.ended.last_line}")
    venue = evidence.venue
    exposed = Exposure()
    if trial.procedure.protected and venue["is_flat"]:
        exposed = exposure(venue["unprotected"], died_at, restarted_at)
    broken += exposed.faults()
    flat_after = venue["first_flat_at"] if trial.procedure.flattens else None
    return Outcome(trial, first.ended.killed, broken, flat_after, closes_repeated(venue), exposed)


def attempt_all(
    trials: Sequence[Trial],
    open_environment: Callable[[Path], CrashEnvironment],
    directory: Path,
    *,
    workers: int,
    within: float = math.inf,
) -> Iterator[Outcome]:
    """Their outcomes, as they come, from so many worlds at once; after `within` seconds no further one is begun."""
    waiting: queue.SimpleQueue[Trial] = queue.SimpleQueue()
    done: queue.SimpleQueue[Outcome | Exception | None] = queue.SimpleQueue()
    until = time.monotonic() + within
    for trial in trials:
        waiting.put(trial)

    def work(number: int) -> None:
        try:
            with open_environment(directory / f"world_{number}") as environment:
                while time.monotonic() < until:
                    done.put(attempt(environment, waiting.get_nowait()))
        except queue.Empty:
            done.put(None)
        except Exception as error:
            done.put(error)
        else:
            done.put(None)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(workers)]
    for thread in threads:
        thread.start()
    working = workers
    while working:
        outcome = done.get()
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is None:
            working -= 1
        else:
            yield outcome
    for thread in threads:
        thread.join()
