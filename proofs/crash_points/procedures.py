"""The commands that are killed and started again, the environment that each begins in, and how it must end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class Database(StrEnum):
    READY = "an SQLite file in the state directory"
    NONE_YET = "none yet in the state directory"
    APART = "PostgreSQL, apart from any host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Procedure:
    """One command. Its end is the same whether it was killed on the way or not."""

    name: str
    arguments: Sequence[str]
    database: Database = Database.READY
    tripped_before: bool = False
    pending_before: bool = False
    """A trip waits on the host's disk."""
    states_after: tuple[str, ...] = ("TRIPPED",)
    redis_up: bool = True
    flattens: bool = False
    last_resort: bool = False
    under_prefect: bool = False
    records_itself: bool = False
    """Nothing may be left for `breaker audit drain` when it has ended."""
    statuses: Sequence[int] = (0,)
    """With which it may end when it is run again."""
    only: Sequence[str] = ("",)
    """How the labels begin of the I/O that is tried here; the rest is the same as in another procedure."""
    protected: bool = False
    """Every position has a stop in the book, which holds all of it."""
    host_lost: bool = False
    """The disk goes with the process, and another host is where it is run again."""


_KILL = ("kill", "--yes", "--reason", "a reason", "--operator", "ada")

KILL = Procedure(name="kill", arguments=_KILL, flattens=True, records_itself=True)
FIRST_KILL = Procedure(
    name="first kill of a host",
    arguments=_KILL,
    database=Database.NONE_YET,
    flattens=True,
    records_itself=True,
    only=("database",),
)
KILL_APART = Procedure(
    name="kill, PostgreSQL",
    arguments=_KILL,
    database=Database.APART,
    flattens=True,
    records_itself=True,
    only=("database",),
)
TAKEOVER = replace(KILL_APART, name="kill, host lost", host_lost=True, only=("",))
KILL_UNDER_PREFECT = Procedure(
    name="kill under Prefect",
    arguments=_KILL,
    flattens=True,
    records_itself=True,
    under_prefect=True,
    only=("Prefect", "venue", "Redis EVAL"),
)
KILL_WITHOUT_REDIS = Procedure(
    name="kill, Redis down",
    arguments=_KILL,
    redis_up=False,
    flattens=True,
    statuses=(4,),
    only=("venue", "mkdir pending", "open pending", "fsync pending", "rename pending"),
)
TRIP = Procedure(name="trip", arguments=("trip", "--reason", "a reason", "--operator", "ada"))
_MENDED = "the cause was found and mended"
RESET = Procedure(
    name="reset",
    arguments=("reset", "--acknowledge", "--reason", _MENDED, "--override", _MENDED, "--operator", "ada"),
    tripped_before=True,
    states_after=("QUIET_PERIOD", "OPEN"),  # OPEN where the watch has ended before it died
    statuses=(0, 1),  # refused when the killed one has already done it
)
DRAIN = Procedure(name="audit drain", arguments=("audit", "drain"), tripped_before=True, records_itself=True)
PENDING = Procedure(name="pending trip", arguments=("audit", "drain"), pending_before=True, records_itself=True)
LAST_RESORT = Procedure(
    name="last resort",
    arguments=("--yes", "--reason", "a reason", "--operator", "ada"),
    states_after=("OPEN",),
    flattens=True,
    last_resort=True,
)

KILL_PROTECTED = replace(KILL, name="kill, stops in the book", protected=True)
LAST_RESORT_PROTECTED = replace(LAST_RESORT, name="last resort, stops in the book", protected=True)

EVERY = (
    KILL,
    FIRST_KILL,
    KILL_APART,
    KILL_WITHOUT_REDIS,
    KILL_UNDER_PREFECT,
    TAKEOVER,
    TRIP,
    RESET,
    DRAIN,
    PENDING,
    LAST_RESORT,
)
