"""The object inside a trading engine that says yes or no to one order.

    gate = Gate(redis_client)
    decision = gate.check(order, position)
    if not decision:
        reject(decision.reason, decision.sentence)

What it guarantees, what it can't, and how to choose a backend: docs/gate.md.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, Self, TypeVar, overload

from breaker.gate import clock
from breaker.gate.decision import EXPIRED, Decision, OrderIntent, OrderRefused, Permit, Reason
from breaker.gate.guard import Admission, guarded
from breaker.gate.judge import Halt, blanket_decision, gate_halt, judge, scope_halt, views_of_order
from breaker.gate.lease import Lease, ScopeState, ScopeView
from breaker.gate.quiet_period import OrderRateLimiter, QuietPeriodLimits
from breaker.keys import GLOBAL, check_scope

if TYPE_CHECKING:
    import redis

    from breaker.gate.report import GateReport
    from breaker.gate.reporter import Reporter, Send
    from breaker.gate.staleness_watch import StalenessWatch
    from breaker.rules import Rules

__all__ = [
    "Decision",
    "Gate",
    "GateStatus",
    "OrderIntent",
    "OrderRefused",
    "Permit",
    "QuietPeriodLimits",
    "Reason",
    "Topology",
]

_log = logging.getLogger(__name__)
_WATCH_EVERY = 0.01
_P = ParamSpec("_P")
_R = TypeVar("_R")
_NO_ORDERS: tuple[Any, ...] = ()
_NO_EPOCH = -1


@dataclass(frozen=True, slots=True)
class Topology:
    """How the Redis that holds the breaker may fail over; the guarantee depends on it being told truly."""

    replicas: int = 0

    @classmethod
    def single(cls) -> Topology:
        """One server that nothing is ever promoted in place of. Heartbeats only read."""
        return cls()

    @classmethod
    def replicated(cls, replicas: int) -> Topology:
        """A primary and `replicas` replicas, any of which may be promoted.

        Each heartbeat is a write that all of them must acknowledge (WAIT), so a gate left on an old primary closes. A
        replica that is down closes the gates too: give the number that can be promoted, and keep it true.
        """
        if replicas < 1:
            raise ValueError(f"a replicated topology has at least one replica, not {replicas}")
        return cls(replicas)


@dataclass(frozen=True, slots=True)
class GateStatus:
    """What a health page shows of one gate."""

    is_open: bool
    """Whether any order passes at all that adds risk without limits."""
    reason: Reason
    sentence: str
    backend: str
    scopes: Mapping[str, ScopeState]
    epochs: Mapping[str, int | None]
    lease_left: float
    """Seconds for which what is known may still be acted on; negative once it may not."""
    connections: int
    problem: str | None


class Source(Protocol):
    """Where a gate's knowledge comes from; it hands each change to the gate."""

    poll_every: float
    """Seconds after which a check calls `poll` again; infinite when it needn't."""

    @property
    def halt(self) -> Halt | None: ...
    @property
    def connections(self) -> int: ...
    @property
    def problem(self) -> str | None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def poll(self, now: float) -> None: ...
    def refresh(self) -> None: ...
    def forked(self) -> Halt | None: ...


class Gate:
    """Watches the breakers of `scopes` (`global` always) and judges orders by them.

    `redis_source` is a `redis.Redis` or a URL; address and credentials are taken from it, the connection is the
    gate's own. Checks may be made from any thread and from coroutines. Close it, or use it as a context manager.

    `backend`: `thread` (simple; a busy interpreter sees a trip some milliseconds late), `drain` (checks read the
    socket themselves) or `shm` (reads what the host's sidecar, `python -m breaker.gate.sidecar`, writes to
    `shared_memory`; the only one that survives a fork).
    `pending_trips` is the directory in which this host keeps the trips that this Redis could not be told of
    (`Settings.pending_trips_dir`): the gate makes them itself before it opens, and stays closed while it can't.
    Never raises because Redis or the sidecar is away: it is closed meanwhile.
    `report`: tell Redis every two seconds how it stands and what its checks came to, for exporter and console.
    Raises `InvalidInput` for a scope, and ValueError for a setting, that makes no sense.
    """

    def __init__(
        self,
        redis_source: redis.Redis | str | None = None,
        *,
        scopes: Iterable[str] = (),
        max_staleness: float = 0.2,
        heartbeat: float | None = None,
        backend: Literal["thread", "drain", "shm"] = "thread",
        topology: Topology = Topology(),
        quiet_limits: QuietPeriodLimits = QuietPeriodLimits(),  # noqa: B008 -- frozen
        shared_memory: Path | str | None = None,
        report: bool = True,
        pending_trips: Path | str | None = None,
    ) -> None:
        self._scopes = tuple(dict.fromkeys((GLOBAL, *scopes)))
        for scope in self._scopes:
            check_scope(scope)
        if not 0 < max_staleness <= 60:
            raise ValueError(f"max_staleness must be more than 0 and at most 60 seconds, not {max_staleness}")
        beat = max_staleness / 4 if heartbeat is None else heartbeat
        if not 0 < beat <= max_staleness / 2:
            raise ValueError(f"heartbeat must be more than 0 and at most half of max_staleness, not {beat}")
        self._max_staleness = max_staleness
        self._quiet_limits = quiet_limits
        self._rate = OrderRateLimiter()
        self._backend = backend
        host_pending_trips = None if pending_trips is None else Path(pending_trips)
        self._make_source = self._source_maker(redis_source, backend, topology, beat, shared_memory, host_pending_trips)
        self._report_to = (redis_source, shared_memory) if report else None
        self._reporter: Reporter | None = None
        self._watches: list[StalenessWatch] = []
        self._callbacks: list[Callable[[GateStatus], None]] = []
        self._generation = 0
        self._begin()
        _gates.add(self)

    def _source_maker(
        self,
        redis_source: redis.Redis | str | None,
        backend: str,
        topology: Topology,
        heartbeat: float,
        shared_memory: Path | str | None,
        pending_trips: Path | None,
    ) -> Callable[[], Source]:
        if backend == "shm":
            if redis_source is not None or topology.replicas or pending_trips is not None:
                raise ValueError(
                    "a shm gate reads the sidecar's shared memory; Redis, topology and pending trips are the sidecar's"
                )

            def make_watch() -> Source:
                from breaker.gate.shared_memory import DEFAULT_PATH, SharedMemorySource  # noqa: PLC0415 -- only this backend

                return SharedMemorySource(
                    Path(shared_memory or DEFAULT_PATH), self._scopes, self._max_staleness, self._publish
                )

            return make_watch
        if backend not in ("thread", "drain"):
            raise ValueError(f"backend must be 'thread', 'drain' or 'shm', not {backend!r}")
        if redis_source is None or shared_memory is not None:
            raise ValueError(f"a {backend} gate needs a Redis client or URL, and no shared memory")

        def make_listener() -> Source:
            from breaker.gate.listener import listen  # noqa: PLC0415 -- only these backends

            return listen(
                redis_source,
                self._blank(topology.replicas),
                self._publish,
                heartbeat=heartbeat,
                drain=backend == "drain",
                pending_trips=pending_trips,
            )

        return make_listener

    def check(self, order: Any = None, position: Any = None, working: Iterable[Any] = _NO_ORDERS) -> Decision:
        """Whether `order` may be sent now: a true or false `Decision` with a stable reason code and a sentence.

        `order` has a symbol, a side and a quantity (`OrderIntent`, `breaker.orders.Order`, or alike). `position` is
        what is held of that symbol: a `breaker.orders.Position`, a signed quantity, or None if it is not known; it
        matters only while trading is halted or limited, as do the account's open orders in `working`.

        Never raises, whatever it is given, and never waits.
        """
        now = clock.now()
        if now >= self._poll_at:
            self._poll(now)
        allowed = self._allowed
        if now < allowed.deadline:
            self._admitted += 1  # exact from any thread: CPython switches at calls and loops, and here is neither
            return allowed
        return self._judge(now, order, position, working)

    def recheck(self, permit: Permit, order: Any = None) -> Decision:
        """Whether a decision made earlier still stands, asked where the order is about to leave the process.

        A permit to reduce risk stands for ever. Any other stands while trading goes on, in the same epoch of every
        breaker that the order belongs to (of every one watched, if no order is given): after a trip and a reset the
        order has to be checked again.
        """
        if permit.deadline == math.inf:
            return Decision(True, Reason.REDUCES_RISK, "The order only reduces the position.", permit)
        now = self._polled()
        self._source.refresh()
        lease, halt = self._known
        views = views_of_order(lease.views, order)
        halt = halt or gate_halt(lease, now) or scope_halt(views)
        if halt is not None:
            return Decision(False, halt.reason, halt.sentence, None, halt.scope)
        if any(permit.epochs.get(view.scope, _NO_EPOCH) != view.reading.epoch for view in views):
            sentence = "A breaker has changed since the order was checked; nothing was sent. Check it again."
            return Decision(False, Reason.PERMIT_EXPIRED, sentence)
        return Decision(True, Reason.OPEN, "The permit still stands.", Permit(permit.epochs, lease.deadline))

    @overload
    def guard(self, order: Callable[_P, _R], /) -> Callable[_P, _R]: ...
    @overload
    def guard(self, *, position_of: Callable[[Any], Any]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...
    @overload
    def guard(self, order: Any, position: Any = None, *, working: Iterable[Any] = ...) -> Admission: ...

    def guard(
        self,
        order: Any = None,
        position: Any = None,
        *,
        working: Iterable[Any] = _NO_ORDERS,
        position_of: Callable[[Any], Any] | None = None,
    ) -> Any:
        """Put the gate in front of a function that submits orders, or of a block; `OrderRefused` when it says no.

        As a decorator, bare or with `position_of=`, on plain and coroutine functions; the order is the parameter
        named `order` or the first one, the position the one named `position` or what `position_of(order)` returns.
        As a context manager, `with` and `async with`, given order and position; it gives the `Permit`.
        """
        if callable(order):
            return guarded(self.check, order, position_of)
        if position_of is not None:
            return lambda submit: guarded(self.check, submit, position_of)
        return Admission(self.check, order, position, working)

    @property
    def is_open(self) -> bool:
        """Whether every order passes right now."""
        return self._polled() < self._allowed.deadline

    def wait_until_open(self, timeout: float) -> bool:
        """Wait until every order passes, `timeout` seconds at most; whether it came to that."""
        give_up = time.monotonic() + timeout
        while not self.is_open:
            if time.monotonic() >= give_up:
                return False
            time.sleep(min(_WATCH_EVERY, timeout))
        return True

    async def wait_until_open_async(self, timeout: float) -> bool:
        """`wait_until_open` for coroutines."""
        give_up = time.monotonic() + timeout
        while not self.is_open:
            if time.monotonic() >= give_up:
                return False
            await asyncio.sleep(min(_WATCH_EVERY, timeout))
        return True

    def on_change(self, callback: Callable[[GateStatus], None]) -> None:
        """Call `callback` with the new status when the gate's reason changes, about 10 ms later, in a thread apart.

        An exception in it is logged and goes no further.
        """
        self._callbacks.append(callback)
        if len(self._callbacks) == 1:
            self._start_watching()

    def watch_feeds(self, rules: Rules, feeds: Sequence[str], every: float = 5.0) -> None:
        """Have this process judge the age of `feeds` every `every` seconds, until the gate is closed.

        Any number of gates may do so; whichever looks first trips, once.
        """
        from breaker.gate.staleness_watch import StalenessWatch  # noqa: PLC0415 -- brings redis with it

        watch = StalenessWatch(rules, feeds, every)
        self._watches.append(watch)
        watch.start()

    def status(self) -> GateStatus:
        """What is known now, for health pages. Reads nothing from Redis."""
        now = self._polled()
        lease, halt = self._known
        halt = halt or self._source.halt or gate_halt(lease, now) or scope_halt(lease.views)
        quiet = any(view.state is ScopeState.QUIET_PERIOD for view in lease.views)
        if halt is None:
            word = "A breaker is in its quiet period." if quiet else "Every breaker is open."
            halt = Halt(Reason.QUIET_PERIOD if quiet else Reason.OPEN, word)
        return GateStatus(
            is_open=halt.reason is Reason.OPEN,
            reason=halt.reason,
            sentence=halt.sentence,
            backend=self._backend,
            scopes={view.scope: view.state for view in lease.views},
            epochs={view.scope: view.reading.epoch for view in lease.views},
            lease_left=lease.deadline - now,
            connections=self._source.connections,
            problem=self._source.problem,
        )

    def restart(self) -> None:
        """Begin anew with a connection of this process's own: after a fork, or after `close`."""
        self._source.stop()
        self._stop_reporting()
        self._begin()

    def close(self) -> None:
        """Stop listening. From then on only orders that reduce risk pass."""
        self._generation += 1
        self._poll_at = math.inf
        while self._watches:
            self._watches.pop().stop()
        self._stop_reporting()
        self._source.stop()
        self._publish(self._blank(), Halt(Reason.CLOSED, "The gate was closed; only orders that reduce risk pass."))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _begin(self) -> None:
        self._generation += 1
        self._publish(self._blank(), Halt(Reason.NOT_CONNECTED, "The gate has not heard from Redis yet."))
        self._source = self._make_source()
        self._poll_at = math.inf if self._source.poll_every == math.inf else EXPIRED
        self._poll = self._source.poll if self._source.poll_every == 0 else self._poll_now_and_then
        self._source.start()
        self._start_reporting()
        if self._callbacks:
            self._start_watching()

    def _start_watching(self) -> None:
        watch = threading.Thread(target=self._watch, args=(self._generation,), name="breaker-gate-watch", daemon=True)
        watch.start()

    def _blank(self, replicas: int = 0) -> Lease:
        return Lease(self._max_staleness, tuple(ScopeView(scope) for scope in self._scopes), replicas)

    def _publish(self, lease: Lease, halt: Halt | None) -> None:
        self._known = lease, halt
        self._allowed = blanket_decision(lease, halt)

    def _poll_now_and_then(self, now: float) -> None:
        self._source.poll(now)
        self._poll_at = clock.now() + self._source.poll_every

    def _polled(self) -> float:
        now = clock.now()
        if now >= self._poll_at:
            self._poll(now)
        return now

    def _judge(self, now: float, order: Any, position: Any, working: Iterable[Any]) -> Decision:
        try:
            self._source.refresh()
            lease, halt = self._known
            halt = halt or self._source.halt
            decision = judge(lease, halt, now, order, position, working, self._quiet_limits, self._rate)
        except Exception as error:
            sentence = f"The order could not be judged ({type(error).__name__}: {error}); nothing was sent."
            decision = Decision(False, Reason.INVALID_ORDER, sentence)
        if not decision:
            self._refused += 1
        elif decision.reason is Reason.REDUCES_RISK:
            self._reduced += 1
        else:
            self._admitted += 1
        return decision

    def _start_reporting(self) -> None:
        # Counts belong to an id, and a forked process or a restarted gate takes a new one.
        self._gate_id = secrets.token_hex(8)
        self._admitted = self._reduced = self._refused = 0
        if self._report_to is not None:
            from breaker.gate.reporter import Reporter  # noqa: PLC0415 -- only gates that report

            self._reporter = Reporter(self._report, self._report_sender(*self._report_to))
            self._reporter.start()

    def _stop_reporting(self) -> None:
        if self._reporter is not None:
            self._reporter.stop()
            self._reporter = None

    def _report_sender(self, redis_source: redis.Redis | str | None, shared_memory: Path | str | None) -> Send:
        from breaker.gate.reporter import redis_sender, sidecar_sender  # noqa: PLC0415

        if redis_source is not None:
            return redis_sender(redis_source)
        from breaker.gate.shared_memory import DEFAULT_PATH  # noqa: PLC0415

        return sidecar_sender(Path(shared_memory or DEFAULT_PATH))

    def _report(self) -> GateReport:
        from breaker.gate.report import MAX_REPORT_SCOPES, GateReport  # noqa: PLC0415

        status = self.status()
        lease, _ = self._known
        return GateReport(
            gate_id=self._gate_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            backend=self._backend,
            scopes=self._scopes[:MAX_REPORT_SCOPES],
            reason=status.reason,
            lease_age=None if status.lease_left == EXPIRED else lease.max_staleness - status.lease_left,
            connections=status.connections,
            checks={"admitted": self._admitted, "reduced": self._reduced, "refused": self._refused},
        )

    def _watch(self, generation: int) -> None:
        last = self.status().reason
        while generation == self._generation:
            time.sleep(_WATCH_EVERY)
            status = self.status()
            if status.reason is not last:
                last = status.reason
                for callback in tuple(self._callbacks):
                    try:
                        callback(status)
                    except Exception:
                        _log.exception("An on_change callback of the gate failed")

    def _forked(self) -> None:
        halt = self._source.forked()
        if halt is not None:
            self._poll_at = math.inf
            self._publish(self._blank(), halt)
        self._stop_reporting()
        if halt is None:
            self._start_reporting()


_gates: weakref.WeakSet[Gate] = weakref.WeakSet()


def _close_forked_gates() -> None:
    for gate in tuple(_gates):
        gate._forked()


os.register_at_fork(after_in_child=_close_forked_gates)
