"""`breaker kill --yes` whose steps are announced and can be held: `python -m … TO FROM HOLD`.

Each step is a line on the file descriptor TO before it begins. The step HOLD then waits for a line on FROM, which says
`go`, or how many seconds the wall clock is to jump first. The command knows nothing of it.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import time_machine

import cli.kill_command
import flows.kill_start
import flows.kill_sweep
from cli import main

OF_TASK = {
    "Confirm the trip": "confirm",
    "Take a snapshot of the book": "snapshot",
    "Cancel open orders": "cancel",
    "Flatten positions": "flatten",
    "Verify that the book is flat": "verify",
    "Tell people": "notify",
}


class Announcer:
    def __init__(self, to: int, orders: int, hold: str) -> None:
        self._to = to
        self._orders = os.fdopen(orders)
        self._hold = hold
        self._begun: set[str] = set()

    def begins(self, step: str) -> None:
        """Say so, the first time; wait, the whole process, if it is the one to be held."""
        if step in self._begun:
            return
        self._begun.add(step)
        os.write(self._to, f"{step}\n".encode())
        if step == self._hold:
            order = self._orders.readline().strip()
            if order != "go":
                _jump(float(order))

    def before(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def announced(*arguments: Any, **named: Any) -> Any:
            self.begins(step)
            return function(*arguments, **named)

        return announced

    def before_task(self, run: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(run)
        def announced(task: Any, **arguments: Any) -> Any:
            self.begins(OF_TASK[task.name])
            return run(task, **arguments)

        return announced


def _jump(seconds: float) -> None:
    time_machine.travel(datetime.now(UTC) + timedelta(seconds=seconds), tick=True).start()


def announce_steps(announcer: Announcer) -> None:
    """Modules that the command imports late are changed when it imports them, so that it stays as quick as it is."""
    kill_command: Any = cli.kill_command
    kill_start: Any = flows.kill_start
    kill_sweep: Any = flows.kill_sweep
    load_procedure, sweep_account = kill_start.load_procedure, kill_sweep.sweep_account

    def load() -> Any:
        procedure = load_procedure()
        module: Any = importlib.import_module("flows.kill_switch")
        for attribute in ("with_prefect", "without_prefect"):
            setattr(module, attribute, announcer.before_task(getattr(module, attribute)))
        module._publish = announcer.before("publish", module._publish)
        return procedure

    def sweep(*arguments: Any, **named: Any) -> Any:
        trail = importlib.import_module("tasks.audit_trail").AuditTrail
        trail.close = announcer.before("record", trail.close)
        return announcer.before("sweep", sweep_account)(*arguments, **named)

    kill_command.make_trip = announcer.before("trip", kill_command.make_trip)
    kill_start.load_procedure = load
    kill_sweep.sweep_account = sweep


if __name__ == "__main__":
    announce_steps(Announcer(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
    sys.argv = ["breaker", "kill", "--yes", *sys.argv[4:]]
    main()
