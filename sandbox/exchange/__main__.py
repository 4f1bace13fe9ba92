"""Run a paper exchange on the loopback interface: `python -m sandbox.exchange --scenario FILE --port N`."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from sandbox.exchange.scenario import Scenario, ScenarioError, load
from sandbox.exchange.server import listen, serve


def main() -> int:
    """Exit code 0 after a stop, 2 for a scenario or port that can't be used."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.exchange", description=__doc__)
    parser.add_argument("--scenario", type=Path, help="TOML file; without one: an empty book and a quiet market")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--tws-port", type=int, help="port on 127.0.0.1 for the TWS API (default: it is not spoken)")
    parser.add_argument("--listeners", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.listeners is not None:
        return _serve_as_child([int(number) for number in arguments.listeners.split(",")])
    port = arguments.port
    try:
        scenario = load(arguments.scenario) if arguments.scenario else Scenario()
        listener = listen(port)
        port = arguments.tws_port
        tws = None if port is None else listen(port)
    except ScenarioError as error:
        return _complain(str(error))
    except (OSError, OverflowError) as error:
        return _complain(f"cannot listen on port {port}: {error}")
    host, port = listener.getsockname()
    keys = f"{scenario.account.key} / {scenario.account.secret}"
    sys.stdout.write(f"paper exchange at http://{host}:{port} (keys: {keys})\n")
    if tws is not None:
        sys.stdout.write(f"TWS API at {host}:{tws.getsockname()[1]} (account: {scenario.tws.accounts[0]})\n")
    sys.stdout.flush()
    serve(scenario, listener, tws)
    return 0


def _serve_as_child(listeners: Sequence[int]) -> int:
    """The parent listens already and sends the scenario on standard input."""
    scenario = Scenario.model_validate_json(sys.stdin.read())
    serve(scenario, *(socket.socket(fileno=number) for number in listeners))
    return 0


def _complain(problem: str) -> int:
    sys.stderr.write(f"{problem}\n")
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
