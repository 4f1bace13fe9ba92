"""Name what can be lost, in which way, and when; and choose a sample that has each of them. No input or output."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Way(StrEnum):
    KILLED = "SIGKILL"
    STOPPED = "SIGSTOP"
    CUT = "cable cut"


HOSTS: Final = ("host A", "host B", "host C")
SERVICES: Final = (
    "Redis's primary",
    "a Sentinel",
    "PostgreSQL's primary",
    "Prefect's server",
    "the worker",
    "services",
    "the standby",
)
KILL_PHASES: Final = ("before it", "after the trip", "amid cancels", "amid closes", "at the verification")
RECOVERY_EARLY: Final = ("root cause awaited", "amid the health checks")
RECOVERY_LATE: Final = ("approval awaited", "just after the reset", "amid the watch")


@dataclass(frozen=True, slots=True)
class Loss:
    """Of a host everything is lost, of a service its process and what that has started."""

    what: str
    way: Way

    def __str__(self) -> str:
        return f"{self.what}: {self.way}"


@dataclass(frozen=True, slots=True)
class KillCase:
    phase: str
    loss: Loss


@dataclass(frozen=True, slots=True)
class RecoveryCase:
    """A recovery with two losses, each healed before the next; either may be missing."""

    early: tuple[str, Loss] | None
    late: tuple[str, Loss] | None


LOSSES: Final = (
    *(Loss(host, way) for host in HOSTS for way in Way),
    *(Loss(service, way) for service in SERVICES for way in (Way.KILLED, Way.STOPPED)),
)


def kill_cases(seed: int, rounds: int) -> list[KillCase]:
    """Every loss once a round, each time at another phase; every phase about as often as each other."""
    dice = random.Random(seed)
    losses = dice.sample(LOSSES, len(LOSSES))
    # 2 and 5 have no common divisor: no phase comes twice before each has come once.
    drawn = [
        [KillCase(KILL_PHASES[(number + 2 * each) % len(KILL_PHASES)], loss) for number, loss in enumerate(losses)]
        for each in range(min(rounds, len(KILL_PHASES)))
    ]
    return [case for cases in drawn for case in dice.sample(cases, len(cases))]


def recovery_cases(seed: int, rounds: int) -> list[RecoveryCase]:
    """Every loss `rounds` times, early or late, each phase about as often as another of its half."""
    dice = random.Random(seed)
    drawn = [loss for _ in range(rounds) for loss in dice.sample(LOSSES, len(LOSSES))]
    early, late = drawn[::2], drawn[1::2]
    at = (itertools.cycle(RECOVERY_EARLY), itertools.cycle(RECOVERY_LATE))
    pairs = itertools.zip_longest(zip(at[0], early, strict=False), zip(at[1], late, strict=False))
    return [RecoveryCase(*pair) for pair in pairs]


def phases_of(cases: Sequence[RecoveryCase]) -> Iterator[tuple[str, Loss]]:
    return (each for case in cases for each in (case.early, case.late) if each is not None)


def in_order(kills: Sequence[KillCase], recoveries: Sequence[RecoveryCase]) -> list[KillCase | RecoveryCase]:
    """So that every loss has met both before the time may be over."""
    first = len(LOSSES)
    return [*kills[:first], *recoveries, *kills[first:]]
