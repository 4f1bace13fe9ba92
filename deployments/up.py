"""Run `make up`: the whole stack on this machine, in the foreground, until Ctrl-C.

A Redis-protocol server, the paper exchange with a book, a Prefect server with its UI, and every deployment served.
While it runs, `make` in another terminal acts on it: the settings that make it so are in `.breaker/up.mk`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from breaker import BreakerError
from configuration.login import login_name
from deployments.interrupt import end_on_signals
from deployments.local_stack import SCENARIO, LocalStack, start_stack
from ledger.errors import LedgerError
from sandbox.child_process import free_port, listens, spawn
from sandbox.exchange import scenario
from sandbox.exchange.server import PaperExchangeFailed

HOME = Path(".breaker")
PREFECT_PORT = 4200
REDIS_PORT = 6379
KEYS = "# Written by `make up`; gone when it ends.\nquiet_period = {watch}\n"
SECTIONS = """\

# One person at one desk: in production leave two_person on, which is its default.
[recovery]
two_person = false
watch = {watch}

[recovery.people]
"{person}" = ["APPROVE_RECOVERY", "RESET_CIRCUIT"]
"""


class AlreadyUp(BreakerError):
    """Another `make up` runs here."""


def main() -> int:
    out = Console(highlight=False)
    try:
        with ExitStack() as started:
            _up(_arguments(), started, out)
    except KeyboardInterrupt:
        out.print("\nStopped; everything that was started here is gone.")
        return 0
    except (BreakerError, LedgerError, PaperExchangeFailed, scenario.ScenarioError, OSError) as error:
        out.print(f"It cannot start: {error}")
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make up", description=__doc__)
    parser.add_argument("--watch", type=float, default=300.0, help="seconds that a reset is watched, and quiet")
    return parser.parse_args()


def _up(arguments: argparse.Namespace, started: ExitStack, out: Console) -> None:
    home = HOME.absolute()
    home.mkdir(exist_ok=True, mode=0o700)
    _hold_pid_file(home / "up.pid", started)
    end_on_signals()
    out.print(Text("Starting …", "dim"))
    stack = start_stack(
        started,
        home,
        scenario.load(SCENARIO),
        redis_port=_port(REDIS_PORT),
        prefect_port=_port(PREFECT_PORT),
    )
    stack.configure(KEYS.format(watch=arguments.watch), SECTIONS.format(watch=arguments.watch, person=login_name()))
    started.callback(stack.configuration.unlink, missing_ok=True)
    stack.initialize("make up")
    _tell_make(home / "up.mk", stack.environment, started)
    environment = {**os.environ, **stack.environment}
    with (home / "serve.log").open("ab") as log:
        serving = spawn([sys.executable, "-m", "services.serve"], env=environment, output=log)
    started.callback(_end, serving)
    _show(out, stack)
    while serving.poll() is None:
        time.sleep(0.5)
    raise BreakerError(f"the served deployments ended by themselves; see {home / 'serve.log'}")


def _hold_pid_file(path: Path, started: ExitStack) -> None:
    """So that `make down` finds us, and a second `make up` says so instead of fighting over ports and files."""
    try:
        os.kill(int(path.read_text()), 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        path.write_text(str(os.getpid()))
        started.callback(path.unlink, missing_ok=True)
    else:
        raise AlreadyUp(f"it runs already, as process {path.read_text().strip()}; make down stops it")


def _port(usual: int) -> int:
    return free_port() if listens(usual) else usual


def _tell_make(path: Path, environment: dict[str, str], started: ExitStack) -> None:
    path.write_text("".join(f"export {name} := {value}\n" for name, value in environment.items()), encoding="utf-8")
    started.callback(path.unlink, missing_ok=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _show(out: Console, stack: LocalStack) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_row("Prefect UI", stack.prefect.ui_url)
    table.add_row("Redis", stack.redis.url)
    table.add_row("paper exchange", f"{stack.exchange.url}/_paper/report")
    table.add_row("log of the deployments", str(stack.home / "serve.log"))
    out.print(table)
    out.print("In another terminal, here:")
    out.print("  make circuit-status")
    out.print('  make kill-switch YES=1 REASON="trying it out"   then: make recover')
    out.print("Ctrl-C stops everything.")


if __name__ == "__main__":
    sys.exit(main())
