"""Check breaker, ledger and feeds: what the scheduled verification looks at beyond conditions and services.

Each check answers with measurements, as a condition does, so that all of it reads alike. Those that talk to the
database block, and are run in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from redis import Redis

from breaker import CircuitBreaker, Status
from breaker.errors import BreakerError
from breaker.keys import GLOBAL, Keys
from breaker.pending_trips import PendingTrip
from breaker.rules import AsyncRules, Outcome, Verdict
from breaker.state import State
from breaker.status_reader import StatusReader
from configuration.breakers import apply_pending_trips, limits_from, waiting_trips
from configuration.redis_clients import async_redis_client, redis_client
from configuration.settings import Settings
from ledger.audit import Audit, DrainResult, drain, verify_with_redis
from ledger.configured import open_checkpoints, open_ledger, open_ready_ledger, open_spool
from ledger.errors import LedgerError, LedgerUnavailable
from ledger.ledger import Ledger
from ledger.models import OVERRIDE_DETECTED
from ledger.outbox import known_scopes
from ledger.queries import Filter
from ledger.reconcile import Reconciliation, reconcile, settled_at_once
from ledger.record import AuditRow
from ledger.tail import RecordedState
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, describe_error

_DRAIN_COMMAND = "`breaker audit drain`"


@dataclass(frozen=True, slots=True)
class Stores:
    """Redis and ledger for one verification, and the breakers it is about."""

    settings: Settings
    redis: Redis
    ledger: Ledger
    scopes: tuple[str, ...]

    @property
    def timeout(self) -> float:
        return self.settings.redis_timeout

    def statuses(self) -> dict[str, Status]:
        """Every breaker's state at this moment. Blocks."""
        with closing(StatusReader(self.redis, timeout=self.timeout, remember=False)) as reader:
            return reader.read(self.scopes)


@contextmanager
def open_stores(settings: Settings) -> Iterator[Stores]:
    """Never fails for an outage: then only the global breaker is known of. Blocks.

    Raises LedgerError when the configured URL names no database.
    """
    redis = redis_client(settings)
    with closing(redis), closing(_ledger(settings)) as ledger:
        try:
            scopes = known_scopes(redis, ledger, timeout=settings.redis_timeout)
        except (BreakerError, LedgerError):
            scopes = (GLOBAL,)
        yield Stores(settings, redis, ledger, scopes)


def _ledger(settings: Settings) -> Ledger:
    try:
        return open_ready_ledger(settings)
    except LedgerUnavailable:  # the embedded one can't be made; each check that needs it will say so
        return open_ledger(settings)


def check_pending_trips(settings: Settings) -> Measurement:
    """Make the trips that wait on this host because Redis could not be told of them.

    Raises BreakerError: what could not be made still waits.
    """
    probe = Probe("pending_trips", "none waiting", f"trips kept in {settings.pending_trips_dir}")
    made = apply_pending_trips(settings)
    if not made:
        left = waiting_trips(settings).elsewhere
        return probe.measured("none") if not left else judge_trips_of_others(probe, left)
    scopes = ", ".join(sorted({applied.trip.scope for applied in made}))
    problem = f"Trips that Redis could not be told of were made now, in {scopes}: find out why nobody did so before."
    return probe.measured(f"made {len(made)}", Colour.YELLOW, problem)


def judge_trips_of_others(probe: Probe, left: Sequence[PendingTrip]) -> Measurement:
    """Trips on this host that were meant for another Redis: nobody makes them here, and somebody asked for them."""
    which = "; ".join(f"{trip.scope} for {trip.meant_for}, by {trip.tripped_by}" for trip in left[:5])
    problem = (
        f"Left alone, as they were meant for another Redis: {which}. A command with that Redis's configuration makes "
        "them; if they are history, delete their files."
    )
    return probe.measured(f"{len(left)} of others", Colour.YELLOW, problem)


def check_states(stores: Stores) -> list[Measurement]:
    """Whether each breaker's state can be read, and its epoch is not older than the ledger knows it."""
    return _judge_states(stores, stores.statuses())


def check_state(stores: Stores, scope: str) -> list[Measurement]:
    """The same for one breaker. Raises LedgerError where the ledger can't be asked for the epoch."""
    with closing(CircuitBreaker(stores.redis, scope, timeout=stores.timeout)) as breaker:
        return _judge_states(stores, {scope: breaker.get_status()})


def _judge_states(stores: Stores, statuses: Mapping[str, Status]) -> list[Measurement]:
    known = [scope for scope, status in statuses.items() if status.state is not State.UNKNOWN]
    recorded = stores.ledger.states_of(known) if known else {}
    return [found for scope, status in statuses.items() for found in _judge_state(scope, status, recorded.get(scope))]


def _judge_state(scope: str, status: Status, recorded: RecordedState | None) -> Iterator[Measurement]:
    key = Keys.of(scope).state
    readable = Probe(_name("state", scope), "readable", key)
    if status.state is State.UNKNOWN:
        yield readable.measured("UNKNOWN", Colour.RED, str(status.problem))
        return
    yield readable.measured(status.state.value)
    yield judge_epoch(Probe(_name("epoch", scope), "not below the ledger's", key), status.epoch, _epoch(recorded))


def judge_epoch(probe: Probe, epoch: int | None, recorded: int | None) -> Measurement:
    """An epoch that went back is an older copy of the data: a failover that lost writes, or a restored backup."""
    if epoch is None:
        return probe.measured(
            "none", Colour.YELLOW, "The state was written by hand, without an epoch: trip and reset it."
        )
    value = f"{epoch}, ledger {'none' if recorded is None else recorded}"
    if recorded is not None and epoch < recorded:
        return probe.measured(
            value, Colour.RED, "Redis serves an older copy of its data: look for a failover, then trip."
        )
    return probe.measured(value)


def _epoch(recorded: RecordedState | None) -> int | None:
    row = None if recorded is None else recorded.row
    if row is None:
        return None
    said = row.details["after"] if row.action == OVERRIDE_DETECTED else row.details
    epoch = said.get("epoch")
    return epoch if isinstance(epoch, int) else None


def check_drain(stores: Stores) -> Measurement:
    """Move what waits in outboxes and spool into the ledger."""
    probe = Probe("drain", "nothing left waiting", "outboxes and spools' copy in Redis, this host's spool")
    drained = drain(stores.redis, stores.ledger, open_spool(stores.settings), stores.scopes, timeout=stores.timeout)
    return judge_drain(probe, drained)


def judge_drain(probe: Probe, drained: DrainResult) -> Measurement:
    value = f"moved {drained.outbox.moved} transitions, {drained.spool.moved} records"
    if drained.problems:
        problems = " ".join(drained.problems)
        return probe.measured(value, Colour.RED, f"{problems} What waits is kept; try again with {_DRAIN_COMMAND}.")
    unreadable = drained.outbox.unreadable + drained.spool.unreadable
    if unreadable:
        problem = f"{unreadable} entries could not be read, and were recorded as such: look at them in the audit log."
        return probe.measured(value, Colour.YELLOW, problem)
    if drained.copy.moved:
        counts = ", ".join(f"{count} of {host}" for host, count in drained.copy.moved.items())
        problem = (
            f"Records came from the copy in Redis, as their host had not delivered them: {counts}. See whether it is "
            "up, and whether its state directory is still there."
        )
        return probe.measured(f"{value}, {sum(drained.copy.moved.values())} of a copy", Colour.YELLOW, problem)
    return probe.measured(value)


@dataclass(frozen=True, slots=True)
class ReconciliationCheck:
    """`up_to` is the last row of the ledger that was looked at."""

    measurements: tuple[Measurement, ...]
    up_to: int


def check_reconciliation(stores: Stores, after: int | None) -> ReconciliationCheck:
    """Compare each breaker with its record; red for whatever was done past it, and found by anybody since row `after`.

    Without `after` only what is found here counts.
    """
    try:
        settled = settled_at_once(stores.redis, stores.ledger, stores.scopes, timeout=stores.timeout)
    except (BreakerError, LedgerError):  # each is asked by itself, and says so
        settled = {}
    found = [_compare(stores, scope, settled.get(scope)) for scope in stores.scopes]
    up_to, _ = stores.ledger.head()
    if after is None:
        return ReconciliationCheck(tuple(found), up_to)
    overrides = stores.ledger.query(Filter(actions=(OVERRIDE_DETECTED,))).rows
    red = {measurement.name for measurement in found if measurement.colour is Colour.RED}
    by_others = [row for row in overrides if after < row.seq <= up_to and _name("reconciliation", row.scope) not in red]
    return ReconciliationCheck((*found, *(_override(row) for row in by_others)), up_to)


def _compare(stores: Stores, scope: str, settled: Reconciliation | None) -> Measurement:
    probe = Probe(_name("reconciliation", scope), "Redis as the ledger says", Keys.of(scope).state)
    try:
        found = settled or reconcile(stores.redis, stores.ledger, scope, timeout=stores.timeout)
        return judge_reconciliation(probe, found)
    except (BreakerError, LedgerError) as error:  # one breaker's trouble must not hide another's
        return probe.failed(describe_error(error))


def judge_reconciliation(probe: Probe, found: Reconciliation) -> Measurement:
    if found.override is not None or found.tripped:
        done = " It was tripped again, as the ledger has no reset of its last trip." if found.tripped else ""
        problem = f"Somebody wrote {found.state} to {probe.how} past the breaker; it is on record.{done} Find out who."
        return probe.measured(found.state, Colour.RED, problem)
    if found.recovered:
        problem = f"{found.recovered} transitions had vanished from the outbox, and were recorded from the history."
        return probe.measured(found.state, Colour.YELLOW, problem)
    if not found.settled:
        return probe.measured(found.state, Colour.YELLOW, "Transitions came too thick to compare; the next run will.")
    return probe.measured(found.state)


def _override(row: AuditRow) -> Measurement:
    probe = Probe(_name("reconciliation", row.scope), "Redis as the ledger says", Keys.of(row.scope).state)
    problem = f"Somebody wrote {row.outcome} to {probe.how} past the breaker; it is row {row.seq}. Find out who."
    return probe.measured(row.outcome, Colour.RED, problem)


def check_chain(stores: Stores, *, whole: bool) -> Measurement:
    """Verify the ledger's chain: what is new since the last checkpoint, or the `whole` of it."""
    probe = Probe("chain", "unbroken", "all rows" if whole else "the rows since the last checkpoint")
    checkpoints = open_checkpoints(stores.settings)
    audit = verify_with_redis(stores.ledger, checkpoints, stores.redis, timeout=stores.timeout, only_new=not whole)
    return judge_chain(probe, audit)


def judge_chain(probe: Probe, audit: Audit) -> Measurement:
    found = audit.verification
    value = f"{found.rows} rows in {found.seconds:.2f} s, up to row {found.seq}"
    if found.problem is not None:
        advice = ""
        if found.problem.refutes_checkpoint:
            advice = (
                " Lost, or restored from an older copy? Two people say so: "
                "`breaker audit quarantine --reason WHY --second-person NAME`."
            )
        return probe.measured(value, Colour.RED, f"The audit log was tampered with: {found.problem.sentence}.{advice}")
    return probe.measured(value)


async def check_feeds(settings: Settings) -> Measurement:
    """Judge the age of the configured feeds, which trips the breaker when it is too old (*Automatic Trips*).

    Those that the monitor looks at it judges itself, by the sessions of their markets.
    """
    feeds = tuple(feed for feed in settings.recovery.feeds if feed not in settings.feeds)
    limits = limits_from(settings)
    limit = "none: the rule is off" if limits.data_age is None else f"{limits.data_age:g} s"
    probe = Probe("feeds", limit, f"heartbeats of {', '.join(feeds) or 'no feed'}")
    if not feeds and settings.feeds:
        return probe.measured(f"{len(settings.feeds)} judged by the monitor")
    if not feeds:
        return probe.measured("no feed", Colour.YELLOW, "No feeds are configured, so nobody notices old data by this.")
    redis = async_redis_client(settings)
    rules = AsyncRules(redis, limits=limits, timeout=settings.redis_timeout)
    try:
        return judge_feeds(probe, await rules.check_staleness(feeds))
    finally:
        await rules.close()


def judge_feeds(probe: Probe, outcome: Outcome) -> Measurement:
    details = outcome.details
    value = f"the oldest is {details.get('feed', '?')}, {details.get('measured', '?')} old"
    match outcome.verdict:
        case Verdict.WITHIN:
            return probe.measured(value)
        case Verdict.OFF:
            return probe.measured(value, Colour.YELLOW, "The rule DATA_STALENESS is off, so nothing judges this.")
        case Verdict.TRIPPED:
            return probe.measured(value, Colour.RED, f"Feed {details.get('feed')} is too old; the breaker was tripped.")
        case _:
            return probe.measured(value, Colour.RED, f"Feed {details.get('feed')} is too old: get it going again.")


def _name(check: str, scope: str) -> str:
    return check if scope == GLOBAL else f"{check}/{scope}"
