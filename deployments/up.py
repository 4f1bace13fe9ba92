"""Run `make up`: the whole stack on this machine, in the foreground, until Ctrl-C.

A Redis-protocol server, the paper exchange with a book, a Prefect server with its UI, every deployment served, the
console and the exporter.
While it runs, `make` in another terminal acts on it where nothing else is configured: by `.breaker/up.mk`.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
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
from configuration.printed_commands import pastable
from deployments.interrupt import end_on_signals
from deployments.local_stack import SCENARIO, SHELL_LACKS, LocalStack, start_stack
from deployments.up_files import CONFIGURATION, HOME, SETTINGS, hold_pid_file
from ledger.errors import LedgerError
from sandbox.child_process import end, free_port, listens, spawn
from sandbox.exchange import scenario
from sandbox.exchange.server import PaperExchangeFailed

PREFECT_PORT = 4200
REDIS_PORT = 6379
CONSOLE_PORT = 8500
METRICS_PORT = 8503
START_LIMIT = 60.0
"""Seconds for the console and the exporter to answer."""
STOP_LIMIT = 10.0
MODULES = {"services.serve": "serve.log", "console": "console.log", "services.exporter": "metrics.log"}
"""What is resident, and where each writes to."""
FIRST_START = re.compile(r"console: first start: (sign in as \S+ with \S+)")
KEYS = "# Written by `make up`; gone when it ends.\nquiet_period = {watch}\n"
SECTIONS = """\

# One person at one desk: in production leave two_person on, which is its default.
[recovery]
two_person = false
watch = {watch}
console_url = "http://127.0.0.1:{console}"

[recovery.people]
"{person}" = ["APPROVE_RECOVERY", "RESET_CIRCUIT"]

[console]
port = {console}
metrics_port = {metrics}
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
    ports = {"console": _port(CONSOLE_PORT), "metrics": _port(METRICS_PORT)}
    sections = SECTIONS.format(watch=arguments.watch, person=login_name(), **ports)
    stack.configure(KEYS.format(watch=arguments.watch), sections)
    stack.initialize("make up")
    processes: list[subprocess.Popen[bytes]] = []
    started.callback(_end, processes)
    for module, log in MODULES.items():
        with (home / log).open("wb") as output:
            processes.append(spawn([sys.executable, "-m", module], env=stack.process_environment, output=output))
    _wait(f"http://127.0.0.1:{ports['console']}/alive", processes, home)
    _wait(f"http://127.0.0.1:{ports['metrics']}/metrics", processes, home)
    _tell_make(home / SETTINGS, stack.environment)
    _show(out, stack, ports)
    while True:
        _raise_if_ended(processes, home)
        time.sleep(0.5)


def _wait(url: str, processes: Sequence[subprocess.Popen[bytes]], home: Path) -> None:
    """Until it answers. Raises BreakerError."""
    until = time.monotonic() + START_LIMIT
    while time.monotonic() < until:
        _raise_if_ended(processes, home)
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  loopback
                return
        except OSError:
            time.sleep(0.1)
    raise BreakerError(f"{url} did not answer within {START_LIMIT:g} s; see {home}/*.log")


def _raise_if_ended(processes: Sequence[subprocess.Popen[bytes]], home: Path) -> None:
    for process, (module, log) in zip(processes, MODULES.items(), strict=True):
        if process.poll() is not None:
            raise BreakerError(f"{module} ended by itself; see {home / log}")


def _port(usual: int) -> int:
    return free_port() if listens(usual) else usual


def _tell_make(path: Path, environment: dict[str, str]) -> None:
    """So that `make` in another terminal acts on it; and what a shell lacks that is to paste what a command prints."""
    lines = [f"export {name} := {value}\n" for name, value in environment.items()]
    write_atomically(path, "".join([*lines, f"export {LACKING} := {SHELL_LACKS}\n"]))


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        end(process, within=STOP_LIMIT)


def _show(out: Console, stack: LocalStack, ports: Mapping[str, int]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    for name, address in addresses(stack, ports).items():
        table.add_row(name, Text(address))
    out.print(table)
    if first := FIRST_START.search((stack.home / MODULES["console"]).read_text(encoding="utf-8")):
        out.print(Text.assemble("The console: ", (first[1], "bold"), " (shown this once)"))
    else:
        out.print("The console: sign in as before; for a new password:")
        out.print(
            f"  {pastable('breaker user password admin', stack.process_environment)}", soft_wrap=True, markup=False
        )
    out.print("In another terminal:")
    for line in pasted(stack, Path.cwd()):
        out.print(f"  {line}", soft_wrap=True, markup=False)
    if Path(CONFIGURATION).exists():
        out.print(Text(f"Without that export, make here acts on {CONFIGURATION}, not on this.", "yellow"))
    out.print("Ctrl-C stops everything.")


def addresses(stack: LocalStack, ports: Mapping[str, int]) -> dict[str, str]:
    """Where each part of the stack is."""
    home = stack.home.relative_to(Path.cwd()) if stack.home.is_relative_to(Path.cwd()) else stack.home
    return {
        "console": f"http://127.0.0.1:{ports['console']}",
        "Prefect": stack.prefect.ui_url,
        "metrics": f"http://127.0.0.1:{ports['metrics']}/metrics",
        "Redis": stack.redis.url,
        "database": f"sqlite:///{home}/state/audit.db",
        "sandbox exchange": f"{stack.exchange.url}/_paper/report",
        "logs": f"{home}/*.log",
    }


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
