"""Gather what venue, Redis, ledger, disks and gates have to say of one case, once everything is healed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from breaker import CircuitBreaker, TransitionEvent
from breaker.keys import Keys
from ledger.ledger import Ledger
from ledger.record import AuditRow
from ledger.spool import Spool
from ledger.verify import verify
from proofs.three_hosts.host import Host
from proofs.three_hosts.judgement import Facts, Stretch
from proofs.three_hosts.topology import Topology
from tests.helpers import eventually

_DELIVERED_WITHIN: Final = 20.0
_MOST: Final = 200


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a case begins in everything that goes on over many of them."""

    at: float
    """Unix time."""
    epoch: int
    row: int
    """The last row of the ledger before it."""

    @classmethod
    def of(cls, topology: Topology) -> Beginning:
        with contextlib.closing(Ledger.connect(topology.ledger_url, timeout=10)) as ledger:
            rows = [raw for batch in ledger.stream() for raw in batch]
        return cls(time.time(), topology.breaker.get_status().epoch or 0, AuditRow.from_raw(rows[-1]).seq)


def gather(topology: Topology, beginning: Beginning) -> Facts:
    """Delivers what waits first, as the services would, but without waiting for their time."""
    history = _history(topology.breaker, beginning)
    for host in topology.hosts.values():
        if _waits_on(host):
            host.run("cli", "audit", "drain")
    waiting = _waiting(topology)
    with contextlib.suppress(AssertionError):  # what still waits is judged
        eventually(lambda: _waiting(topology) == 0, within=_DELIVERED_WITHIN, every=0.2)
        waiting = 0
    with contextlib.closing(Ledger.connect(topology.ledger_url, timeout=10)) as ledger:
        rows = [AuditRow.from_raw(raw) for batch in ledger.stream(beginning.row) for raw in batch]
        problem = verify(ledger).problem
    return Facts(
        state=topology.breaker.get_state().value,
        history=history,
        rows=rows,
        chain=problem.sentence if problem else "",
        waiting=waiting,
        stretches=stretches_since(topology, beginning.at),
        venue=topology.report(),
    )


def stretches_since(topology: Topology, at: float) -> list[Stretch]:
    return [each for each in topology.stretches() if each[2] >= at]


def _history(breaker: CircuitBreaker, beginning: Beginning) -> Sequence[TransitionEvent]:
    found = [event for event in breaker.get_history(_MOST) if event.epoch > beginning.epoch]
    return sorted(found, key=lambda event: event.epoch)


def _waits_on(host: Host) -> int:
    return len(Spool(host.state / "spool").records()) + len(list(host.state.glob("pending_trips/*.json")))


def _waiting(topology: Topology) -> int:
    outbox = topology.client.xlen(Keys.of().outbox)
    return int(outbox) + sum(_waits_on(host) for host in topology.hosts.values())
