"""Check that the reset in force was decided by somebody: one straight from the library asks nobody (promise 9)."""

from __future__ import annotations

from contextlib import closing

from breaker import CircuitBreaker
from breaker.keys import GLOBAL, of_scope
from breaker.state import State, Status
from ledger.queries import Filter
from ledger.record import AuditRow
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe
from tasks.checks.stores import Stores
from tasks.recovery.reset import ADOPTED

LIBRARY = "library"
"""The source of what no rules were asked for."""


def check_resets(stores: Stores) -> list[Measurement]:
    """One measurement for each breaker. Raises LedgerError where the ledger can't be asked. Blocks."""
    return [_judge_reset(stores, scope, status) for scope, status in stores.statuses().items()]


def check_reset(stores: Stores, scope: str) -> Measurement:
    with closing(CircuitBreaker(stores.redis, scope, timeout=stores.timeout)) as breaker:
        return _judge_reset(stores, scope, breaker.get_status())


def _judge_reset(stores: Stores, scope: str, status: Status) -> Measurement:
    newest = stores.ledger.query(Filter(actions=("CIRCUIT_BREAKER_RESET",), scope=scope), limit=1).rows
    adopted: tuple[AuditRow, ...] = ()
    if newest and newest[0].source == LIBRARY:  # of no other is it asked
        wanted = Filter(actions=(ADOPTED,), scope=scope, since=newest[0].timestamp)
        adopted = stores.ledger.query(wanted, limit=20).rows
    name = "reset" if scope == GLOBAL else f"reset/{scope}"
    probe = Probe(name, "decided by the rules", "the newest reset in the ledger, and whether a recovery adopted it")
    epochs = [row.details.get("epoch") for row in adopted]
    return judge_reset(probe, status, newest[0] if newest else None, epochs, scope)


def judge_reset(
    probe: Probe, status: Status, reset: AuditRow | None, adopted: list[object], scope: str = GLOBAL
) -> Measurement:
    """Red while trading goes on by a reset that no rule was asked for and no recovery vouches for."""
    if reset is None or status.state not in (State.OPEN, State.QUIET_PERIOD):
        return probe.measured("none in force")
    value = f"by {reset.user_id or 'somebody'} at {reset.timestamp:%Y-%m-%d %H:%M:%S} UTC, from {reset.source}"
    epoch = reset.details.get("epoch")
    if reset.source != LIBRARY or epoch in adopted or _came_after(status, epoch):
        return probe.measured(value)
    problem = (
        "This reset came straight from the library: no permission, no second person, no condition was asked for. Let "
        f"the incident's recovery decide (`breaker recover answer{of_scope(scope)}`), or trip it and reset it by "
        f"`breaker reset --reason WHY{of_scope(scope)}`."
    )
    return probe.measured(value, Colour.RED, problem)


def _came_after(status: Status, epoch: object) -> bool:
    """Whether the state is another one than that of this reset, or of the end of its quiet period."""
    return status.epoch is None or not isinstance(epoch, int) or status.epoch > epoch + 1
