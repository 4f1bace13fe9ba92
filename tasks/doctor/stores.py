"""Check each breaker's state, the trips that wait on this host, and the ledger's chain."""

from __future__ import annotations

import asyncio
from contextlib import closing

from breaker import CircuitBreaker
from breaker.keys import GLOBAL, Keys, of_scope
from breaker.state import State, Status
from configuration.breakers import waiting_trips
from configuration.settings import Settings
from ledger.audit import Audit, known_to
from ledger.configured import open_checkpoints
from ledger.shared_checkpoint import SharedCheckpoint
from ledger.verify import verify
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, describe_error, measure_within
from tasks.checks.stores import Stores, check_state, judge_chain, judge_trips_of_others, open_stores
from tasks.doctor.redis_server import RESET_EVERY

_STORES_LIMIT = 20.0


async def measure_stores(settings: Settings) -> tuple[list[Measurement], Measurement]:
    """Each breaker's state, and the ledger's chain; what blocks goes on in a thread."""
    chain = Probe("chain", "unbroken", "the rows since the last checkpoint")
    state = Probe("state", "readable", Keys.of(GLOBAL).state)
    try:
        async with asyncio.timeout(_STORES_LIMIT):
            return await asyncio.to_thread(_look_at_stores, settings, chain)
    except TimeoutError:
        late = f"There was no answer within {_STORES_LIMIT:g} s; see redis and ledger."
        return [state.failed(late)], chain.failed(late)
    except Exception as error:  # a doctor who falls over helps nobody
        return [state.failed(describe_error(error))], chain.failed(describe_error(error))


def _look_at_stores(settings: Settings, chain: Probe) -> tuple[list[Measurement], Measurement]:
    with open_stores(settings) as stores:
        states = [found for scope in stores.scopes for found in _look_at_state(stores, scope)]
        try:
            kept = open_checkpoints(settings).all()
            newest = max(kept, key=lambda point: point.seq, default=None)
            also = known_to(SharedCheckpoint(stores.redis, stores.ledger, stores.timeout))
            verification = verify(stores.ledger, key=stores.ledger.key, checkpoints=[*kept, *also], start=newest)
        except Exception as error:
            return states, chain.failed(describe_error(error))
        return states, judge_chain(chain, Audit(verification, None))


def _look_at_state(stores: Stores, scope: str) -> list[Measurement]:
    name = "trading" if scope == GLOBAL else f"trading/{scope}"
    trading = Probe(name, "not halted", Keys.of(scope).state)
    with closing(CircuitBreaker(stores.redis, scope, timeout=stores.timeout)) as breaker:
        status = breaker.get_status()
    try:
        states = check_state(stores, scope)
    except Exception as error:  # the ledger's epoch is the lesser part; the state itself was read
        states = [Probe("epoch", "not below the ledger's", Keys.of(scope).state).failed(describe_error(error))]
    if status.state is State.UNKNOWN:
        return states
    return [*states, judge_trading(trading, status, stores.settings.quiet_period, scope)]


def judge_trading(probe: Probe, status: Status, quiet_period: float, scope: str = GLOBAL) -> Measurement:
    """Halted is no fault, but whoever wonders why nothing trades should read it here."""
    if status.state is State.TRIPPED:
        by = f" by {status.tripped_by}" if status.tripped_by else ""
        walk = f"`breaker recover{of_scope(scope)}` walks back to trading"
        problem = f"Halted{by}, {status.trip_reason or 'no reason given'}: {walk}."
        return probe.measured("halted", Colour.YELLOW, problem)
    if status.state is State.QUIET_PERIOD and status.quiet_until is not None and status.as_of is not None:
        left = (status.quiet_until - status.as_of).total_seconds()
        if left > max(quiet_period, RESET_EVERY):
            problem = (
                f"The quiet period would last {left:.0f} s more, which no reset here asks for: "
                f"`breaker trip{of_scope(scope)}`, then `breaker reset --reason WHY{of_scope(scope)}` begins a "
                "proper one."
            )
            return probe.measured("stuck in QUIET_PERIOD", Colour.RED, problem)
        if status.ends_watched and left <= 0:
            return probe.measured("limited", Colour.YELLOW, "After a reset; it ends when it has been watched.")
        ends = "when it has been watched" if status.ends_watched else "by itself"
        return probe.measured(f"limited for {left:.0f} s more", Colour.YELLOW, f"After a reset; it ends {ends}.")
    return probe.measured("allowed")


async def measure_pending_trips(settings: Settings) -> Measurement:
    """Trips that Redis could not be told of, and that nobody has told it of since."""
    probe = Probe("pending-trips", "none", str(settings.pending_trips_dir))

    async def measure() -> Measurement:
        waiting = await asyncio.to_thread(waiting_trips, settings)
        if waiting.here:
            scopes = ", ".join(sorted({trip.scope for trip in waiting.here}))
            problem = f"Redis doesn't know yet that {scopes} was halted: bring it back, then run `breaker audit drain`."
            return probe.measured(f"{len(waiting.here)} waiting", Colour.RED, problem)
        return judge_trips_of_others(probe, waiting.elsewhere) if waiting.elsewhere else probe.measured("none")

    return await measure_within(probe, 5.0, measure())
