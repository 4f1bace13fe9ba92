"""A process with everything imported that forks one command at a time: each is a fresh process within milliseconds."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cli
from configuration.orchestrator import set_prefect_timeouts
from proofs.crash_points.boundary import Boundary, Death, Point, Side

ROOT = Path(__file__).parents[2]
EMERGENCY = ROOT / "deployments" / "emergency.py"
_EVERYTHING = (
    "alembic.command",
    "psycopg2",
    "redis.asyncio",
    "rich.live",
    "brokers.alpaca",
    "brokers.sweep",
    "cli.app",
    "cli.audit_commands",
    "cli.transitions",
    "flows.kill_switch",
    "ledger.audit",
    "ledger.configured",
    "ledger.schema",
)
LONGEST_RUN = 60.0
"""Seconds after which a command hangs, and is killed."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit status, minus the signal's number if one ended it, None if it hung."""

    status: int | None
    seconds: float
    said: str

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL

    @property
    def last_line(self) -> str:
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


@dataclass(frozen=True, slots=True)
class Order:
    """One command: `breaker` with these arguments, or the last resort."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    output: Path
    journal: Path
    root: Path
    peers: Mapping[int, str]
    death: Death | None = None
    last_resort: bool = False

    def to_json(self) -> str:
        death = self.death and [self.death.point.label, self.death.point.nth, self.death.side]
        files = {name: str(getattr(self, name)) for name in ("output", "journal", "root")}
        rest = {name: getattr(self, name) for name in ("arguments", "environment", "peers", "last_resort")}
        return json.dumps({**rest, **files, "death": death})

    @classmethod
    def from_json(cls, line: str) -> Self:
        body: dict[str, Any] = json.loads(line)
        if body["death"] is not None:
            label, nth, side = body["death"]
            body["death"] = Death(Point(label, nth), Side(side))
        files = {name: Path(body[name]) for name in ("output", "journal", "root")}
        return cls(**{**body, **files, "peers": {int(port): name for port, name in body["peers"].items()}})


class Forks:
    """Starts that process; `environment` is what it imports with. Not for several threads at once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "proofs.crash_points.forks"],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, order: Order) -> Ended:
        """Run it to its end, whichever that is."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(order.to_json() + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        said = order.output.read_text("utf-8", "replace") if order.output.exists() else ""
        return Ended(answer["status"], answer["seconds"], said)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve() -> None:
    """Fork a child for each line of standard input, and answer with how it ended."""
    _import_everything()
    gc.freeze()  # or each child would go through all of it once more when it ends
    for line in sys.stdin:
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            _become(Order.from_json(line))
            return
        status = _wait(child, begun + LONGEST_RUN)
        try:
            print(json.dumps({"status": status, "seconds": time.monotonic() - begun}), flush=True)
        except BrokenPipeError:  # whoever asked has been killed
            os._exit(1)


def _import_everything() -> None:
    set_prefect_timeouts()
    for name in _EVERYTHING:
        importlib.import_module(name)


def _become(order: Order) -> None:
    """Never returns normally: leaves as the command would."""
    for name, value in order.environment.items():
        os.environ[name] = value
    importlib.import_module("prefect.context").refresh_global_settings_context()
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(order.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    Boundary(order.journal, order.peers, order.root, order.death).install()
    if order.last_resort:
        sys.argv = [str(EMERGENCY), *order.arguments]
        runpy.run_path(str(EMERGENCY), run_name="__main__")
    else:
        sys.argv = ["breaker", *order.arguments]
        cli.main()


def _wait(child: int, deadline: float) -> int | None:
    watch = os.pidfd_open(child)
    try:
        ready, _, _ = select.select([watch], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    finally:
        os.close(watch)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if ready else None


if __name__ == "__main__":
    serve()
