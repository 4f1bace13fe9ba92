"""The server as a process: how it starts, how fast it is, how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchange, PaperExchangeFailed, PaperExchangeThread, listen
from tests.helpers import at_best, seconds_of

BIG = "rate_limit = 100000\n[book]\norders = 1200\npositions = 250\n"


def test_a_large_book_is_quick(venue: Callable[..., PaperExchange], http: httpx.Client) -> None:
    venue(BIG)
    assert len(http.get("/v2/orders", params={"limit": 500}).json()) == 500
    at_best(lambda: seconds_of(lambda: http.get("/v2/orders", params={"limit": 500})), within=0.030, attempts=50)
    at_best(lambda: seconds_of(lambda: http.get("/v2/positions")), within=0.030, attempts=50)

    def cancel_all() -> float:
        venue(BIG)
        return seconds_of(lambda: http.delete("/v2/orders"))

    at_best(cancel_all, within=0.050, attempts=50)


def test_the_exchange_ends_with_its_parent() -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from sandbox.exchange.server import PaperExchange\n"
            "exchange = PaperExchange().start()\n"
            "print(exchange.pid, flush=True)\n"
            "input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.is_running()
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    gone, alive = psutil.wait_procs([child], timeout=5)
    assert alive == []
    assert gone == [child]


def test_stopping_frees_the_port_and_may_be_done_twice() -> None:
    exchange = PaperExchange().start()
    pid, port = exchange.pid, int(exchange.url.rsplit(":", 1)[1])
    exchange.stop()
    exchange.stop()
    assert not psutil.pid_exists(pid)
    listen(port).close()
    with pytest.raises(PaperExchangeFailed, match="cannot be reached"):
        exchange.report()


def test_a_taken_port_is_said_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PaperExchangeFailed, match=f"cannot listen on port {port}"):
            PaperExchange(port=port).start()
        done = subprocess.run(
            [sys.executable, "-m", "sandbox.exchange", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"cannot listen on port {port}" in done.stderr


def test_the_command_serves_a_scenario_file_until_interrupted(tmp_path: Path) -> None:
    scenario = tmp_path / "scenario.toml"
    scenario.write_text("[book]\norders = 3\n[account]\nkey = 'mine'\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox.exchange", "--scenario", str(scenario)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert "(keys: mine / secret)" in said
        url = said.split()[3]
        assert httpx.get(f"{url}/_paper/report").json()["open_orders"] == 3
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)


def test_the_command_names_a_bad_scenario_key(tmp_path: Path) -> None:
    scenario = tmp_path / "scenario.toml"
    scenario.write_text("[book]\nordres = 3\n")
    done = subprocess.run(
        [sys.executable, "-m", "sandbox.exchange", "--scenario", str(scenario)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"{scenario}: scenario key book.ordres: Extra inputs are not permitted\n"


def test_on_a_thread_it_is_the_same_exchange() -> None:
    with PaperExchangeThread(parse("[book]\norders = 3\npositions = 2\n")) as exchange:
        keys = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}
        results = httpx.delete(f"{exchange.url}/v2/positions", params={"cancel_orders": True}, headers=keys)
        assert results.status_code == 207
        assert exchange.report()["is_flat"] is True


def test_a_control_call_that_is_wrong_is_refused(venue: Callable[..., PaperExchange]) -> None:
    exchange = venue()
    with pytest.raises(PaperExchangeFailed, match="asset not found for NOPE"):
        exchange.control("halt", {"symbol": "NOPE"})
    with pytest.raises(PaperExchangeFailed, match="refused"):
        exchange.control("market", {"session": "ajar"})
