"""Check that the reset in force was decided by somebody, and is watched where only that ends its quiet period
(promise 9). One straight from the library asks nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace

from breaker import CircuitBreaker
from breaker.keys import GLOBAL, Keys, of_scope
from breaker.state import State, Status
from ledger.queries import Filter
from ledger.record import AuditRow
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe
from tasks.checks.stores import Stores
from tasks.recovery.reset import ADOPTED
from tasks.recovery.reset_watch import WATCH_FIELDS, WatchRecord, watch_record

LIBRARY = "library"
"""The source of what no rules were asked for."""
_TRADING = (State.OPEN, State.QUIET_PERIOD)
WATCHED_WITHIN = 15.0
"""Seconds after its reset in which somebody begins to watch it, or takes over from whoever died."""


def check_resets(stores: Stores) -> list[Measurement]:
    """One measurement for each breaker. Raises LedgerError where the ledger can't be asked. Blocks."""
    return _judge_resets(stores, stores.statuses())


def check_reset(stores: Stores, scope: str) -> Measurement:
    with closing(CircuitBreaker(stores.redis, scope, timeout=stores.timeout)) as breaker:
        return _judge_resets(stores, {scope: breaker.get_status()})[0]


def _judge_resets(stores: Stores, statuses: Mapping[str, Status]) -> list[Measurement]:
    watches = _watches(stores, {scope: status for scope, status in statuses.items() if status.ends_watched})
    trading = [scope for scope, status in statuses.items() if status.state in _TRADING]
    newest = stores.ledger.newest_of_each(trading, "CIRCUIT_BREAKER_RESET") if trading else {}
    return [
        judge_watched(_judge_reset(stores, scope, status, newest.get(scope)), status, watches.get(scope), scope)
        for scope, status in statuses.items()
    ]


def _watches(stores: Stores, statuses: Mapping[str, Status]) -> dict[str, WatchRecord]:
    """The watches of those quiet periods, as far as they can be told."""
    if not statuses:
        return {}
    with stores.redis.pipeline(transaction=False) as together:
        for scope in statuses:
            together.hmget(Keys.of(scope).key("reset_watch"), WATCH_FIELDS)
        replies = together.execute(raise_on_error=False)
    found = {}
    for (scope, status), kept in zip(statuses.items(), replies, strict=True):
        with suppress(ValueError):
            watch = watch_record(kept, status.as_of) if isinstance(kept, list) and status.as_of else None
            if watch is not None and watch.epoch == status.epoch:
                found[scope] = watch
    return found


def judge_watched(found: Measurement, status: Status, watch: WatchRecord | None, scope: str = GLOBAL) -> Measurement:
    """`found`, or red where nobody watches the quiet period that only a watch may end."""
    if not status.ends_watched or status.reset_at is None or status.as_of is None:
        return found
    since = status.reset_at if watch is None else watch.seen
    alone = (status.as_of - since).total_seconds()
    if alone < WATCHED_WITHIN or (watch is not None and watch.ended is not None):
        return found
    problem = (
        f"Nobody has watched this reset for {alone:.0f} s, and its quiet period ends by that alone: start a service or "
        f"a standby, or let `breaker reset --reason WHY{of_scope(scope)}` watch it."
    )
    return replace(found, colour=Colour.RED, problem=" ".join(filter(None, (found.problem, problem))))


def _judge_reset(stores: Stores, scope: str, status: Status, newest: AuditRow | None) -> Measurement:
    adopted: tuple[AuditRow, ...] = ()
    if newest is not None and newest.source == LIBRARY:  # of no other is it asked
        wanted = Filter(actions=(ADOPTED,), scope=scope, since=newest.timestamp)
        adopted = stores.ledger.query(wanted, limit=20).rows
    name = "reset" if scope == GLOBAL else f"reset/{scope}"
    probe = Probe(name, "decided by the rules", "the newest reset in the ledger, and whether a recovery adopted it")
    epochs = [row.details.get("epoch") for row in adopted]
    return judge_reset(probe, status, newest, epochs, scope)


def judge_reset(
    probe: Probe, status: Status, reset: AuditRow | None, adopted: list[object], scope: str = GLOBAL
) -> Measurement:
    """Red while trading goes on by a reset that no rule was asked for and no recovery vouches for."""
    if reset is None or status.state not in _TRADING:
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
