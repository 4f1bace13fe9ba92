"""A process with gates in it, for the fan-out benchmark: says when they are open, and when each first refused.

For each line on standard input it waits until all its gates are open, prints `open`, and then the boot-time clock at
which each gate refused. As `raw` it only notes when the push reached its socket: what Redis itself needs.
"""

from __future__ import annotations

import select
import sys
import threading
import time
from typing import Any

from breaker.gate import Gate, clock
from breaker.gate.connect import connector
from breaker.gate.intents import OrderIntent
from breaker.gate.lease import Lease
from breaker.requests import encode_command

_ORDER = OrderIntent("AAPL", "buy", 10)


def main() -> None:
    url, shared_memory, backend, load, count = sys.argv[1:]
    if backend == "raw":
        _raw(url, int(count))
        return
    gates = [_gate(url, shared_memory, backend) for _ in range(int(count))]
    for _ in sys.stdin:
        if not all(gate.wait_until_open(10) for gate in gates):
            raise SystemExit("a gate did not open")
        if load == "busy":
            print("open", flush=True)
            print(_order_loop(gates[0]), flush=True)
        elif backend == "thread":
            _print_pushed(gates)
        else:
            print("open", flush=True)
            print(_patient_loop(gates[0]), flush=True)


def _gate(url: str, shared_memory: str, backend: str) -> Gate:
    return Gate(backend="shm", shared_memory=shared_memory) if backend == "shm" else Gate(url, backend=backend)  # type: ignore[arg-type]


def _order_loop(gate: Gate) -> float:
    """An engine that computes without pause and asks before each order, about every 20 µs."""
    while True:
        sum(range(1000))
        if not gate.check(_ORDER, 0):
            return clock.now()


def _patient_loop(gate: Gate) -> float:
    """An engine with little to do."""
    while gate.check(_ORDER, 0):
        time.sleep(50e-6)
    return clock.now()


def _print_pushed(gates: list[Gate]) -> None:
    """The moment from which each gate refuses, without any check that would keep the processor busy."""
    refused: list[float] = []
    done = threading.Event()
    for gate in gates:
        publish = gate._publish

        def published(lease: Lease, halt: Any, gate: Gate = gate, publish: Any = publish) -> None:
            publish(lease, halt)
            if not gate._allowed.allowed and gate in waiting:
                refused.append(clock.now())
                waiting.discard(gate)
                if not waiting:
                    done.set()

        gate._source._publish = published  # type: ignore[attr-defined]
    waiting = set(gates)
    print("open", flush=True)
    done.wait(10)
    for gate in gates:
        gate._source._publish = gate._publish  # type: ignore[attr-defined]
    print(*refused, flush=True)


def _raw(url: str, count: int) -> None:
    lines = [connector(url, 1.0, "raw")() for _ in range(count)]
    for line in lines:
        line.socket.sendall(encode_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "circuit_breaker:state"))
    for _ in sys.stdin:
        time.sleep(0.01)
        poller, sockets = select.poll(), {line.socket.fileno(): line.socket for line in lines}
        for number, socket in sockets.items():
            while select.select([socket], [], [], 0)[0]:
                socket.recv(65_536)
            poller.register(number, select.POLLIN)
        print("open", flush=True)
        seen: list[float] = []
        while len(seen) < count:
            for number, _ in poller.poll(10_000):
                seen.append(clock.now())
                poller.unregister(number)
        print(*seen, flush=True)


if __name__ == "__main__":
    main()
