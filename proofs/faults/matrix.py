"""The cells of the fault matrix: what breaks, how, and at the beginning of which step of the kill switch."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import redis

from proofs.faults.stack import Place, Stack
from proofs.proxy import Fault

STEPS = ("trip", "sweep", "confirm", "snapshot", "cancel", "flatten", "verify", "publish", "notify", "record")
"""In the order in which they begin; `publish` is the orchestrator's report, `record` the ledger at the end."""
GO = "go"
DAY = 86_400
AWHILE = 1.5
"""Seconds after which some faults end by themselves."""


class Victim(Protocol):
    """The kill switch's own process."""

    @property
    def pid(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Scene:
    stack: Stack
    place: Place
    victim: Victim


@dataclass(frozen=True, slots=True)
class Kind:
    """`inject` breaks it and returns how the held step goes on; `lasts` seconds, or until the process has ended."""

    name: str
    inject: Callable[[Scene], str]
    lasts: float | None = None
    steps: Sequence[str] = STEPS


@dataclass(frozen=True, slots=True)
class Cell:
    component: str
    step: str
    kind: Kind

    @property
    def name(self) -> str:
        return f"{self.component}/{self.step}/{self.kind.name}".replace(" ", "-")

    @property
    def hopeless(self) -> bool:
        """The venue can't be reached for as long as the command runs, so that nothing can be proven."""
        return self.component == "broker" and self.kind.lasts is None

    @property
    def ends_process(self) -> bool:
        return self.component == "own process" and self.kind.name == "killed"

    @property
    def needs_permissions(self) -> bool:
        """To be run as somebody whom permissions bind."""
        return self.kind.name == "read-only"


def _proxied(proxy: str, steps: Sequence[str] = STEPS, lasts: float | None = None) -> list[Kind]:
    def inject(fault: Fault, scene: Scene) -> str:
        scene.stack.proxies[proxy].inject(fault)
        return GO

    suffix = f" {lasts:g} s" if lasts else ""
    faults = [fault for fault in Fault if fault is not Fault.NONE]
    return [Kind(f"{fault.value}{suffix}", partial(inject, fault), lasts, steps) for fault in faults]


def _stop(server: str, scene: Scene) -> str:
    scene.stack.stop(*scene.stack.pids_of(server))
    return GO


def _kill(server: str, scene: Scene) -> str:
    if server == "redis":
        scene.stack.redis.kill()
    elif server == "postgres":
        scene.stack.postgres.stop(signal.SIGKILL)
    else:
        for pid in scene.stack.pids_of(server):
            with contextlib.suppress(ProcessLookupError):  # a child may go with its parent
                os.kill(pid, signal.SIGKILL)
    return GO


def _fill_disk(server: str, scene: Scene) -> str:
    scene.stack.fill_disk(*scene.stack.pids_of(server))
    return GO


def _fill_memory(scene: Scene) -> str:
    with contextlib.closing(redis.Redis(port=scene.stack.redis.port)) as client:
        client.config_set("maxmemory", 1)
    return GO


def _kill_self(scene: Scene) -> str:
    os.kill(scene.victim.pid, signal.SIGKILL)
    return GO


def _stop_self(scene: Scene) -> str:
    scene.stack.stop(scene.victim.pid)
    return GO


def _fill_own_disk(scene: Scene) -> str:
    scene.stack.fill_disk(scene.victim.pid)
    return GO


def _make_read_only(scene: Scene) -> str:
    scene.place.make_read_only()
    return GO


def _jump(seconds: int, scene: Scene) -> str:
    return str(seconds)


# A fault that comes where its component is not in use is the one that comes where it is used next.
_USE_REDIS = ("trip", "sweep", "confirm", "flatten", "record")
_USE_DATABASE = ("sweep", "confirm", "flatten", "verify", "record")
_USE_BROKER = ("trip", "sweep", "snapshot", "cancel", "flatten", "verify")
_USE_PREFECT = ("sweep", "confirm", "cancel", "flatten", "verify", "publish", "record")
KINDS: Mapping[str, Sequence[Kind]] = {
    "redis": [
        *_proxied("redis", _USE_REDIS),
        Kind("refused 1.5 s", _proxied("redis")[0].inject, AWHILE, _USE_REDIS),
        Kind("killed", partial(_kill, "redis"), steps=_USE_REDIS),
        Kind("killed 1.5 s", partial(_kill, "redis"), AWHILE, _USE_REDIS),
        Kind("stopped", partial(_stop, "redis"), steps=_USE_REDIS),
        Kind("disk full", partial(_fill_disk, "redis"), steps=_USE_REDIS),
        Kind("memory full", _fill_memory, steps=_USE_REDIS),
    ],
    "database": [
        *_proxied("postgres", _USE_DATABASE),
        Kind("killed", partial(_kill, "postgres"), steps=_USE_DATABASE),
        Kind("killed 1.5 s", partial(_kill, "postgres"), AWHILE, _USE_DATABASE),
        Kind("stopped", partial(_stop, "postgres"), steps=_USE_DATABASE),
        Kind("disk full", partial(_fill_disk, "postgres"), steps=_USE_DATABASE),
    ],
    "broker": [
        *_proxied("exchange", _USE_BROKER),
        *_proxied("exchange", _USE_BROKER, AWHILE),
        Kind("stopped 1.5 s", partial(_stop, "exchange"), AWHILE, _USE_BROKER),
    ],
    "notifications": _proxied("sink", ("trip", "notify")),
    "own process": [
        Kind("killed", _kill_self),
        Kind("stopped 1.5 s", _stop_self, AWHILE),
        Kind("disk full", _fill_own_disk),
        Kind("read-only", _make_read_only),
        Kind("clock a day on", partial(_jump, DAY)),
        Kind("clock a day back", partial(_jump, -DAY)),
    ],
    "prefect": [
        *_proxied("prefect", _USE_PREFECT),
        Kind("stopped", partial(_stop, "prefect"), steps=_USE_PREFECT),
        Kind("disk full", partial(_fill_disk, "prefect"), steps=_USE_PREFECT),
        Kind("killed", partial(_kill, "prefect"), steps=_USE_PREFECT),
    ],
}
"""By component. Prefect comes last: its server takes seconds to start again."""


def cells() -> list[Cell]:
    return [
        Cell(component, step, kind)
        for component, kinds in KINDS.items()
        for kind in kinds
        for step in STEPS
        if step in kind.steps
    ]
