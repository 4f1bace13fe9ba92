"""A reset that no rule was asked for is red until somebody decides it."""

from __future__ import annotations

import redis

from breaker import CircuitBreaker
from ledger.configured import open_ready_ledger
from ledger.outbox import drain_outbox
from ledger.record import AuditRecord
from tasks.checks.measurement import Colour
from tasks.checks.stores import Stores
from tasks.recovery.reset import ADOPTED
from tasks.verification.resets import check_reset
from tests.tasks.recovery.conftest import Configure, configure

__all__ = ["configure"]


def test_promise_9_a_reset_from_the_library_is_red_until_a_recovery_adopts_it_or_it_is_tripped(
    configure: Configure, redis_client: redis.Redis
) -> None:
    settings = configure()
    ledger = open_ready_ledger(settings)
    stores = Stores(settings, redis_client, ledger, ("global",))

    def reset(source: str) -> int:
        breaker = CircuitBreaker(redis_client, source=source, reset_interval=0)
        breaker.trip("MANUAL")
        epoch = breaker.reset("ada", "all is well again, resuming").epoch
        drain_outbox(redis_client, ledger, ("global",))
        return epoch or 0

    def colour() -> Colour:
        return check_reset(stores, "global").colour

    assert colour() is Colour.GREEN
    for source in ("cli", "console", "api", "flow"):
        reset(source)
        assert colour() is Colour.GREEN, source
    epoch = reset("library")
    found = check_reset(stores, "global")
    assert (found.colour, found.value.endswith("from library")) == (Colour.RED, True)
    CircuitBreaker(redis_client).end_quiet_period(expected_epoch=epoch)
    assert colour() is Colour.RED, "a watch that ended well is no decision"
    ledger.append([AuditRecord(action=ADOPTED, source="flow", details={"epoch": epoch})])
    assert colour() is Colour.GREEN
    reset("library")
    CircuitBreaker(redis_client).trip("MANUAL")
    assert colour() is Colour.GREEN
    ledger.close()
