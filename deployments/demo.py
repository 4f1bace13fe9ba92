"""`make demo`: a real book of HTTP orders is halted, cancelled and flattened, on a machine where nothing runs yet."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from redis import Redis
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from breaker import BreakerError, CircuitBreaker
from deployments.interrupt import end_on_signals
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange import scenario
from sandbox.exchange.server import PaperExchange, PaperExchangeFailed
from sandbox.prefect_server import PrefectServer

SCENARIO = Path(__file__).with_name("demo_scenario.toml")
CONFIGURATION = """\
redis_url = "{redis}"
state_dir = "{state}"

[accounts.PAPER]
base_url = "{exchange}"
key_id = "key"
secret_key = "secret"
"""


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
    except (BreakerError, PaperExchangeFailed, scenario.ScenarioError) as error:
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
    prefect = PrefectServer(home / "prefect")
    started.callback(prefect.stop)
    prefect.start()
    redis = started.enter_context(EmbeddedRedis(home / "redis"))
    book = scenario.load(SCENARIO)
    size = {"orders": arguments.orders, "positions": arguments.positions}
    book = book.model_copy(update={"book": book.book.model_copy(update=size)})
    exchange = started.enter_context(PaperExchange(book))
    CircuitBreaker(Redis.from_url(redis.url)).initialize_state(by="demo")
    prefect.wait()
    out.print(Text(f"… up in {time.monotonic() - begun:.0f} s.", "dim"))
    _show_book(exchange.report(), redis.url, exchange.url, prefect.ui_url, out)

    configuration = home / "breaker.toml"
    configuration.write_text(
        CONFIGURATION.format(redis=redis.url, state=home / "state", exchange=exchange.url), encoding="utf-8"
    )
    environment = {**os.environ, **prefect.environment, "BREAKER_CONFIG": str(configuration)}
    command = [sys.executable, "-m", "cli", "kill", "--yes", "--operator", "demo", "--reason", "demonstration"]
    out.print(Text.assemble(("\n$ ", "dim"), ("breaker kill --yes --reason demonstration", "bold")))
    outcome = subprocess.run(command, env=environment, check=False, cwd=Path(__file__).parents[1])

    report = exchange.report()
    _show_verdict(report, out)
    if arguments.keep:
        _keep(configuration, prefect, exchange, out)
    return outcome.returncode if outcome.returncode or report["is_flat"] else 1


def _show_book(report: dict[str, Any], redis: str, exchange: str, prefect: str, out: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("what")
    table.add_column("where")
    table.add_row("Redis-protocol server", redis)
    table.add_row(
        f"paper exchange: {report['open_orders']} open orders, {len(report['positions'])} positions", exchange
    )
    table.add_row("Prefect, with its UI", prefect)
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


def _keep(configuration: Path, prefect: PrefectServer, exchange: PaperExchange, out: Console) -> None:
    out.print(f"Prefect UI  {prefect.ui_url}/runs")
    out.print(f"Exchange    {exchange.url}/_paper/report")
    out.print("In another terminal:")
    out.print(f"  export BREAKER_CONFIG={configuration} PREFECT_API_URL={prefect.api_url}", soft_wrap=True)
    out.print("  make circuit-status")
    out.print("Ctrl-C stops everything.")
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    sys.exit(main())
