"""Run `make up`: the whole stack on this machine, in the foreground, until Ctrl-C.

A Redis-protocol server, the paper exchange with a book, a Prefect server with its UI, and every deployment served.
While it runs, `make` in another terminal acts on it where nothing else is configured: by `.breaker/up.mk`.
"""

from __future__ import annotations

import argparse
import shlex
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
from breaker.atomic_file import write_atomically
from configuration.locations import LACKING
from configuration.login import login_name
from deployments.interrupt import end_on_signals
from deployments.local_stack import SCENARIO, LocalStack, start_stack
from deployments.up_files import CONFIGURATION, HOME, SETTINGS, hold_pid_file
from ledger.errors import LedgerError
from sandbox.child_process import free_port, listens, spawn
from sandbox.exchange import scenario
from sandbox.exchange.server import PaperExchangeFailed

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
    if not started.enter_context(hold_pid_file(home)):
        raise AlreadyUp("it runs already; `make down` stops it")
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
    stack.initialize("make up")
    _tell_make(home / SETTINGS, stack.environment)
    with (home / "serve.log").open("ab") as log:
        serving = spawn([sys.executable, "-m", "services.serve"], env=stack.process_environment, output=log)
    started.callback(_end, serving)
    _show(out, stack)
    while serving.poll() is None:
        time.sleep(0.5)
    raise BreakerError(f"the served deployments ended by themselves; see {home / 'serve.log'}")


def _port(usual: int) -> int:
    return free_port() if listens(usual) else usual


def _tell_make(path: Path, environment: dict[str, str]) -> None:
    """So that `make` in another terminal acts on it; and what a shell lacks that is to paste what a command prints."""
    lines = [f"export {name} := {value}\n" for name, value in environment.items()]
    write_atomically(path, "".join([*lines, f"export {LACKING} := {' '.join(environment)}\n"]))


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
    out.print("In another terminal:")
    for line in pasted(stack, Path.cwd()):
        out.print(f"  {line}", soft_wrap=True, markup=False)
    if Path(CONFIGURATION).exists():
        out.print(Text(f"Without that export, make here acts on {CONFIGURATION}, not on this.", "yellow"))
    out.print("Ctrl-C stops everything.")


def pasted(stack: LocalStack, folder: Path) -> list[str]:
    """What another terminal needs to act on it, and what to try, as they can be pasted."""
    exported = " ".join(f"{name}={shlex.quote(value)}" for name, value in stack.environment.items())
    return [
        f"cd {shlex.quote(str(folder))}",
        f"export {exported}",
        "make circuit-status",
        'make kill-switch YES=1 REASON="trying it out"',
        "make recover",
    ]


if __name__ == "__main__":
    sys.exit(main())
