"""Whether the ledger is whole after a soak: its chain, and each transition that Redis made exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from breaker import CircuitBreaker
from breaker.events import Transition
from breaker.pending_trips import PendingTrips
from ledger.ledger import Ledger
from ledger.queries import Filter
from ledger.record import AuditRow
from ledger.spool import Spool
from proofs.soak.stack import Stack

TRIP = "CIRCUIT_BREAKER_TRIP"


def check_ledger(stack: Stack) -> tuple[int, str, list[str]]:
    """Rows of the ledger, what its verification says, and what is wrong."""
    problems: list[str] = []
    for attempt in ("drain", "verify"):
        outcome = stack.cli("audit", attempt)
        if outcome.returncode != 0:
            problems.append(f"breaker audit {attempt}: {outcome.stdout}{outcome.stderr}")
    ledger = Ledger.connect(stack.database.dsn("soak"))
    try:
        rows = list(_all_rows(ledger))
    finally:
        ledger.close()
    with stack.direct_redis() as client:
        history = CircuitBreaker(client).get_history(1000)
        if waiting := client.xlen("circuit_breaker:outbox"):
            problems.append(f"{waiting} transitions still wait in Redis")
    made = Counter(event.event_id for event in history if event.transition is Transition.TRIP)
    oldest = min(event.at for event in history)
    recorded = Counter(row.id for row in rows if row.action == TRIP and row.timestamp >= oldest)
    if made != recorded:
        problems.append(f"trips without a row: {made - recorded}; rows without a trip: {recorded - made}")
    epochs = sorted(event.epoch for event in history)
    if epochs != list(range(epochs[0], epochs[0] + len(epochs))):
        problems.append("the history in Redis has gaps")
    if Spool(stack.state_dir / "spool").pending():
        problems.append("records still wait in the spool")
    if PendingTrips(stack.state_dir / "pending_trips").load():
        problems.append("trips still wait on this host")
    return len(rows), outcome.stdout.strip(), problems


def _all_rows(ledger: Ledger) -> Iterator[AuditRow]:
    after = None
    while True:
        page = ledger.query(Filter(), limit=1000, after=after)
        yield from page.rows
        if page.next is None:
            return
        after = page.next
