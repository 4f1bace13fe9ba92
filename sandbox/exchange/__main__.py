"""Run a paper exchange on the loopback interface: `python -m sandbox.exchange --scenario FILE --port N`."""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path

from sandbox.exchange.scenario import Scenario, ScenarioError, load
from sandbox.exchange.server import listen, serve


def main() -> int:
    """Exit code 0 after a stop, 2 for a scenario or port that can't be used."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.exchange", description=__doc__)
    parser.add_argument("--scenario", type=Path, help="TOML file; without one: an empty book and a quiet market")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--listener", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.listener is not None:
        return _serve_as_child(arguments.listener)
    try:
        scenario = load(arguments.scenario) if arguments.scenario else Scenario()
        listener = listen(arguments.port)
    except ScenarioError as error:
        return _complain(str(error))
    except (OSError, OverflowError) as error:
        return _complain(f"cannot listen on port {arguments.port}: {error}")
    host, port = listener.getsockname()
    keys = f"{scenario.account.key} / {scenario.account.secret}"
    sys.stdout.write(f"paper exchange at http://{host}:{port} (keys: {keys})\n")
    sys.stdout.flush()
    serve(scenario, listener)
    return 0


def _serve_as_child(listener: int) -> int:
    """The parent listens already and sends the scenario on standard input."""
    scenario = Scenario.model_validate_json(sys.stdin.read())
    serve(scenario, socket.socket(fileno=listener))
    return 0


def _complain(problem: str) -> int:
    sys.stderr.write(f"{problem}\n")
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
