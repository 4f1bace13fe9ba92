"""Run `make demo`: halt, cancel and flatten a real book of HTTP orders, on a machine where nothing runs yet."""

from __future__ import annotations

import argparse
import io
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from breaker import BreakerError
from deployments.interrupt import end_on_signals
from deployments.local_stack import SCENARIO, LocalStack, start_stack
from ledger.errors import LedgerError
from sandbox.exchange import scenario
from sandbox.exchange.server import PaperExchangeFailed


def main() -> int:
    arguments = _arguments()
    out = Console(highlight=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # in order with what the kill switch writes, also into a file
    end_on_signals()
    try:
        with ExitStack() as started:
            return _demo(arguments, started, out)
    except KeyboardInterrupt:
        out.print("\nStopped; everything that the demo started is gone.")
        return 130
    except (BreakerError, LedgerError, PaperExchangeFailed, scenario.ScenarioError) as error:
        out.print(f"The demo cannot run: {error}")
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--positions", type=int, default=60)
    return parser.parse_args()


def _demo(arguments: argparse.Namespace, started: ExitStack, out: Console) -> int:
    home = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="breaker-demo-", ignore_cleanup_errors=True)))
    out.print(Text("Starting a Redis, a paper exchange and a Prefect server on this machine …", "dim"))
    begun = time.monotonic()
    book = scenario.load(SCENARIO)
    size = {"orders": arguments.orders, "positions": arguments.positions}
    book = book.model_copy(update={"book": book.book.model_copy(update=size)})
    stack = start_stack(started, home, book)
    stack.configure()
    stack.initialize("demo")
    out.print(Text(f"… up in {time.monotonic() - begun:.0f} s.", "dim"))
    _show_stack(stack, out)

    command = [sys.executable, "-m", "cli", "kill", "--yes", "--operator", "demo", "--reason", "demonstration"]
    out.print(Text.assemble(("\n$ ", "dim"), ("breaker kill --yes --reason demonstration", "bold")))
    outcome = subprocess.run(command, env=stack.process_environment, check=False, cwd=Path(__file__).parents[1])

    report = stack.exchange.report()
    _show_verdict(report, out)
    if arguments.keep:
        _keep(stack, out)
    return outcome.returncode if outcome.returncode or report["is_flat"] else 1


def _show_stack(stack: LocalStack, out: Console) -> None:
    report = stack.exchange.report()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("what")
    table.add_column("where")
    table.add_row("Redis-protocol server", stack.redis.url)
    table.add_row(
        f"paper exchange: {report['open_orders']} open orders, {len(report['positions'])} positions", stack.exchange.url
    )
    table.add_row("Prefect, with its UI", stack.prefect.ui_url)
    out.print(table)


def _show_verdict(report: dict[str, Any], out: Console) -> None:
    """The exchange's own account of what was done to it: not ours."""
    requests = sum(report["responses"].values())
    out.print(Text("\nThe exchange's own report", "bold"))
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_row("flat", "yes" if report["is_flat"] else "NO")
    table.add_row("open orders", str(report["open_orders"]))
    table.add_row("positions", str(len(report["positions"])))
    table.add_row("fills that raced their cancel", str(report["fills"].get("book", 0)))
    table.add_row("closes, of symbols", f"{sum(report['closes'].values())}, of {len(report['closes'])}")
    table.add_row("requests it answered", str(requests))
    table.add_row("violations (a close too large, sent twice, or through zero)", str(len(report["violations"])))
    out.print(table)
    for violation in report["violations"]:
        out.print(Text(f"  ! {violation}", "red"))


def _keep(stack: LocalStack, out: Console) -> None:
    out.print(f"Prefect UI  {stack.prefect.ui_url}/runs")
    out.print(f"Exchange    {stack.exchange.url}/_paper/report")
    out.print("In another terminal:")
    exported = " ".join(f"{name}={shlex.quote(value)}" for name, value in stack.environment.items())
    out.print(f"  cd {shlex.quote(str(Path.cwd()))}", soft_wrap=True, markup=False)
    out.print(f"  export {exported}", soft_wrap=True, markup=False)
    out.print("  make circuit-status")
    out.print("Ctrl-C stops everything.")
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    sys.exit(main())
