"""Run `make demo`: halt, cancel and flatten a real book of HTTP orders, on a machine where nothing runs yet.

`VENUES=all`: at Alpaca, at Binance spot and USDⓈ-M, and at Interactive Brokers, by one kill switch.
"""

from __future__ import annotations

import argparse
import io
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from breaker import BreakerError
from deployments.account_sections import KEPT, alpaca_section
from deployments.demo_accounts import DemoAccount, books, start_accounts
from deployments.interrupt import end_on_signals
from deployments.local_stack import SCENARIO, LocalStack, start_stack
from ledger.errors import LedgerError
from sandbox.exchange import scenario
from sandbox.exchange.server import PaperExchangeFailed

ALL: Final = "all"
ONE: Final = "alpaca"
UNKNOWN_VENUES: Final = 2
"""Exit code."""


def main() -> int:
    arguments = _arguments()
    out = Console(highlight=False)
    if arguments.venues not in (ALL, ONE):
        known = f"VENUES is {ALL}, or {ONE}, as it is unless given."
        out.print(f"The demo knows no venues {arguments.venues!r}: {known}", markup=False, soft_wrap=True)
        return UNKNOWN_VENUES
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
    parser.add_argument("--venues", default=ONE, help=f"{ALL}: an account at each venue that is spoken to")
    parser.add_argument("--orders", type=int, help="of the account at Alpaca")
    parser.add_argument("--positions", type=int, help="of the account at Alpaca")
    return parser.parse_args()


def _demo(arguments: argparse.Namespace, started: ExitStack, out: Console) -> int:
    home = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="breaker-demo-", ignore_cleanup_errors=True)))
    everywhere = arguments.venues == ALL
    what = "paper exchanges" if everywhere else "a paper exchange"
    out.print(Text(f"Starting a Redis, {what} and a Prefect server on this machine …", "dim"))
    begun = time.monotonic()
    stack = start_stack(started, home, _book(arguments))
    if everywhere:
        accounts = start_accounts(started, stack.exchange)
    else:
        section = alpaca_section("PAPER", stack.exchange.url)
        accounts = [DemoAccount("PAPER", "paper exchange", stack.exchange, section)]
    stack.configure(accounts="".join(account.section for account in accounts))
    stack.initialize("demo")
    out.print(Text(f"… up in {time.monotonic() - begun:.0f} s.", "dim"))
    _show_stack(stack, accounts, out)

    command = [sys.executable, "-m", "cli", "kill", "--yes", "--operator", "demo", "--reason", "demonstration"]
    out.print(Text.assemble(("\n$ ", "dim"), ("breaker kill --yes --reason demonstration", "bold")))
    outcome = subprocess.run(command, env=stack.process_environment, check=False, cwd=Path(__file__).parents[1])

    reports = [account.exchange.report() for account in accounts]
    if everywhere:
        _show_verdicts(accounts, reports, out)
    else:
        _show_verdict(reports[0], out)
    if arguments.keep:
        _keep(stack, accounts, out)
    are_flat = all(account.is_flat(report) for account, report in zip(accounts, reports, strict=True))
    return outcome.returncode if outcome.returncode or are_flat else 1


def _book(arguments: argparse.Namespace) -> scenario.Scenario:
    """What the account at Alpaca holds."""
    book = books()["ALPACA"] if arguments.venues == ALL else scenario.load(SCENARIO)
    given = {"orders": arguments.orders, "positions": arguments.positions}
    size = {name: number for name, number in given.items() if number is not None}
    return book.model_copy(update={"book": book.book.model_copy(update=size)})


def _show_stack(stack: LocalStack, accounts: Sequence[DemoAccount], out: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("what")
    table.add_column("where")
    table.add_row("Redis-protocol server", stack.redis.url)
    for account in accounts:
        report = account.exchange.report()
        holds = f"{report['open_orders']} open orders, {len(report['positions'])} positions"
        table.add_row(f"{account.venue}: {holds}", account.address)
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
    _show_violations(report, out)


def _show_verdicts(accounts: Sequence[DemoAccount], reports: Sequence[Mapping[str, Any]], out: Console) -> None:
    """The same of several, a line each. Dust and what is kept is no position there."""
    out.print(Text("\nThe exchanges' own reports", "bold"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("account", "flat", "orders", "positions", "raced", "closes", "requests", "violations"):
        table.add_column(column, justify="left" if column in ("account", "flat") else "right")
    for account, report in zip(accounts, reports, strict=True):
        table.add_row(
            account.name,
            "yes" if account.is_flat(report) else "NO",
            str(report["open_orders"]),
            str(len(account.left(report))),
            str(report["fills"].get("book", 0)),
            str(sum(report["closes"].values())),
            str(sum(report["requests"].values())),
            str(len(report["violations"])),
        )
    out.print(table)
    for account, report in zip(accounts, reports, strict=True):
        if account.kept:
            dust = len(report["positions"]) - len(account.kept) - len(account.left(report))
            out.print(f"  {account.name} keeps {', '.join(KEPT)}, and {dust} balances below the least order")
        _show_violations(report, out)


def _show_violations(report: Mapping[str, Any], out: Console) -> None:
    for violation in report["violations"]:
        out.print(Text(f"  ! {violation}", "red"))


def _keep(stack: LocalStack, accounts: Sequence[DemoAccount], out: Console) -> None:
    out.print(f"Prefect UI  {stack.prefect.ui_url}/runs")
    for account in accounts:
        out.print(f"Exchange    {account.exchange.url}/_paper/report")
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
