"""Ask two gates all the time whether an order may be sent, as an engine does: `python -m … URL PENDING FILE`.

Each stretch in which a gate let orders through is a line of FILE: how many replicas the gate waits for, and the wall
clock at its first and last order. The clock is read before the gate is asked.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from breaker.gate import Gate, OrderIntent, Topology

EVERY = 0.004
LONGEST = 0.5
"""Seconds after which a stretch that goes on is written down as far as it has come."""


def main(url: str, pending_trips: Path, file: Path) -> None:
    gates = {number: Gate(url, topology=Topology.replicated(number), pending_trips=pending_trips) for number in (1, 2)}
    stretches: dict[int, tuple[float, float]] = {}
    order = OrderIntent("AAPL", "buy", 1)
    with file.open("a", buffering=1) as lines:
        while True:
            for number, gate in gates.items():
                at = time.time()
                admitted = bool(gate.check(order, 0))
                if admitted:
                    stretches[number] = (stretches.get(number, (at, at))[0], at)
                found = stretches.get(number)
                if found is not None and (not admitted or at - found[0] > LONGEST):
                    lines.write(json.dumps([number, *found]) + "\n")
                    del stretches[number]
            time.sleep(EVERY)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
