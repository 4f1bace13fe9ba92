"""Judge each order before it leaves the engine, without I/O: the object that says yes or no.

What it guarantees, what it can't, and how to choose a backend: docs/explanation/gate.md.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, overload

from breaker.gate import clock
from breaker.gate.change_notifier import POLL_INTERVAL, ChangeNotifier
from breaker.gate.decision import EXPIRED, Decision, Permit, Reason
from breaker.gate.guard import GuardedBlock, guarded
from breaker.gate.judge import Halt, blanket_decision, gate_halt, judge, judge_permit, least_fraction, scope_halt
from breaker.gate.lease import Lease, ScopeState
from breaker.gate.quiet_period import OrderRateLimiter, QuietPeriodLimits
from breaker.gate.reservations import Reservations
from breaker.gate.state_source import SourceSettings
from breaker.gate.status import GateStatus
from breaker.gate.topology import Topology, default_topology
from breaker.keys import GLOBAL

if TYPE_CHECKING:
    from decimal import Decimal

    import redis

    from breaker.gate.report import GateReport
    from breaker.gate.reporter import Reporter
    from breaker.gate.staleness_watch import StalenessWatch
    from breaker.rules import Rules

_P = ParamSpec("_P")
_R = TypeVar("_R")
_NO_ORDERS: tuple[Any, ...] = ()


class Gate:
    """Watches the breakers of `scopes` (`global` always) and judges orders by them.

    Checks may be made from any thread and from coroutines. Close it, or use it as a context manager. Never raises
    because Redis or the sidecar is away: it is closed meanwhile.

    Args:
        redis_source: A `redis.Redis` or a URL; address and credentials are taken from it, the connection is the gate's
            own. None for the `shm` backend.
        scopes: What to watch beside `global`, such as `account:ALPHA`.
        max_staleness: Seconds, at most 60. No order that adds risk passes later than this after a trip.
        heartbeat: Seconds between two readings of the state; a quarter of `max_staleness` unless given.
        backend: `thread` (simple; a busy interpreter sees a trip some milliseconds late), `drain` (checks read the
            socket themselves) or `shm` (reads what the host's sidecar, `python -m breaker.gate.sidecar`, writes to
            `shared_memory`; the only one that survives a fork).
        topology: How that Redis may fail over. Unless given: not at all, and under Sentinel to one replica.
        quiet_limits: What the quiet period after a reset allows.
        shared_memory: The file that the sidecar writes, when it isn't the default one.
        report: Tell Redis every two seconds how this gate stands and what its checks came to, for exporter and console.
        pending_trips: The directory in which this host keeps the trips that this Redis could not be told of
            (`Settings.pending_trips_dir`). The gate makes them itself before it opens, and stays closed while it can't.
        reserve_for: Seconds, at most 600, for which what was let through to reduce counts as working and may be sent.

    Raises:
        InvalidInput: a scope or the URL makes no sense.
        ValueError: another setting makes no sense, or doesn't go with the backend.

    Example:
        >>> from breaker.gate import Gate, OrderIntent
        >>> with Gate(url) as gate:
        ...     _ = gate.wait_until_open(timeout=10.0)
        ...     decision = gate.check(OrderIntent("AAPL", "buy", 10), position=0)
        >>> bool(decision), decision.reason
        (True, <Reason.OPEN: 'OPEN'>)
    """

    def __init__(
        self,
        redis_source: redis.Redis | str | None = None,
        *,
        scopes: Iterable[str] = (),
        max_staleness: float = 0.2,
        heartbeat: float | None = None,
        backend: Literal["thread", "drain", "shm"] = "thread",
        topology: Topology | None = None,
        quiet_limits: QuietPeriodLimits = QuietPeriodLimits(),  # noqa: B008 -- frozen
        shared_memory: Path | str | None = None,
        report: bool = True,
        pending_trips: Path | str | None = None,
        reserve_for: float = 10.0,
    ) -> None:
        settings = SourceSettings(
            redis_source,
            tuple(dict.fromkeys((GLOBAL, *scopes))),
            max_staleness,
            max_staleness / 4 if heartbeat is None else heartbeat,
            backend,
            topology or default_topology(redis_source),
            None if shared_memory is None else Path(shared_memory),
            None if pending_trips is None else Path(pending_trips),
        )
        self._begin(settings, quiet_limits, reserve_for, report=report)

    def _begin(self, settings: SourceSettings, limits: QuietPeriodLimits, reserve_for: float, *, report: bool) -> None:
        self._settings = settings
        self._quiet_limits = limits
        self._order_rate = OrderRateLimiter()
        self._reservations = Reservations(reserve_for)
        self._reports = report
        self._reporter: Reporter | None = None
        self._watches: list[StalenessWatch] = []
        self._notifier = ChangeNotifier(self.status)
        self._start()
        _gates.add(self)

    def check(self, order: Any = None, position: Any = None, working: Iterable[Any] = _NO_ORDERS) -> Decision:
        """Whether `order` may be sent now. Never raises, whatever it is given, and never waits.

        What can't be an order is refused in every state (an intent has found that out when it was made; any other
        object costs some microseconds each time). What is let through because it only reduces counts as working from
        then on, until it is settled (`settle`), is among `working` under its `client_order_id`, or its permit runs out.

        Args:
            order: What is to be sent: an `OrderIntent`, a `breaker.orders.Order` or alike, an `OrderList`, a
                `ReplaceIntent` or a `CancelIntent`.
            position: What is held of that symbol: a `breaker.orders.Position`, a signed quantity, or None if it is not
                known. For several symbols, and for options, all positions or a mapping of symbols to them. It matters
                only while trading is halted or limited.
            working: The account's open orders; they matter only then too. An `OrderList` of them counts as such a list.

        Returns:
            A true or false decision with a stable reason code and a sentence for people.

        Example:
            >>> _ = breaker.trip("MANUAL")
            >>> until(lambda: gate.status().reason == "TRIPPED")
            >>> gate.check(OrderIntent("AAPL", "buy", 10), position=0).reason
            <Reason.TRIPPED: 'TRIPPED'>
            >>> gate.check(OrderIntent("AAPL", "sell", 10), position=100).reason
            <Reason.REDUCES_RISK: 'REDUCES_RISK'>
        """
        now = clock.now()
        if now >= self._poll_at:
            self._poll(now)
        allowed = self._allowed
        if now < allowed.deadline:
            try:
                if order.malformed is None:
                    self._admitted += 1  # exact from any thread: CPython switches at calls and loops; here is neither
                    return allowed
            except Exception:  # noqa: S110 -- no intent of ours, which is judged by what it says
                pass
        return self._judge(now, order, position, working)

    def recheck(self, permit: Permit, order: Any = None) -> Decision:
        """Whether a decision made earlier still stands, asked where the order is about to leave the process.

        A permit to reduce risk stands until its deadline, whatever happens to the breaker. Any other stands while
        trading goes on in the same epoch of every breaker that the order belongs to, so not after a trip and a reset.

        Args:
            permit: The decision's.
            order: The order; without it, every watched breaker must be in the same epoch.

        Returns:
            A true or false decision.

        Example:
            >>> bool(gate.recheck(gate.check(order, position=0).permit, order))
            True
        """
        now = self._now_polled()
        if (allowed := self._allowed).covers(permit, now):
            return allowed
        self._source.refresh()
        return judge_permit(permit, *self._known, now, order)

    def settle(self, permit: Permit, remaining: Decimal | int | str = 0) -> None:
        """Say what became of an order that was let through to reduce, so that it no longer counts twice.

        Call it once the engine's own picture has it: among `working` and in the position that later checks are given,
        or because it was rejected, cancelled or never sent. Again, or for any other permit, it does nothing.

        Args:
            permit: The decision's.
            remaining: What of it may still fill and is not among the working orders.

        Raises:
            ValueError: `remaining` is no quantity; or it is not 0, and the permit is for several orders.

        Example:
            >>> _ = breaker.trip("MANUAL")
            >>> until(lambda: gate.status().reason == "TRIPPED")
            >>> first = gate.check(OrderIntent("AAPL", "sell", 100), position=100)
            >>> bool(first), bool(gate.check(OrderIntent("AAPL", "sell", 100), position=100))
            (True, False)
            >>> gate.settle(first.permit)  # the venue rejected it
        """
        self._reservations.settle(permit.reservation, remaining)

    @overload
    def guard(self, order: Callable[_P, _R], /) -> Callable[_P, _R]: ...
    @overload
    def guard(self, *, position_of: Callable[[Any], Any]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...
    @overload
    def guard(self, order: Any, position: Any = None, *, working: Iterable[Any] = ...) -> GuardedBlock: ...

    def guard(
        self,
        order: Any = None,
        position: Any = None,
        *,
        working: Iterable[Any] = _NO_ORDERS,
        position_of: Callable[[Any], Any] | None = None,
    ) -> Any:
        """Put the gate in front of a function that submits orders, or of a block.

        As a decorator, bare or with `position_of=`, on plain and coroutine functions; the order is the parameter
        named `order` or the first one, the position the one named `position` or what `position_of(order)` returns.
        As a context manager, `with` and `async with`, given order and position; it gives the `Permit`.

        Args:
            order: The function that submits orders; or the order, for a block.
            position: For a block: as for `check`.
            working: For a block: as for `check`.
            position_of: For a decorator: gives the position that belongs to an order.

        Raises:
            OrderRefused: where the function is called or the block entered, when the gate says no.
            TypeError: the function takes no order.

        Example:
            >>> @gate.guard
            ... def submit(order: OrderIntent) -> str:
            ...     return "sent"
            >>> submit(OrderIntent("AAPL", "buy", 10))
            'sent'
            >>> with gate.guard(order, position=0) as permit:
            ...     assert gate.recheck(permit)
        """
        if callable(order):
            return guarded(self.check, order, position_of)
        if position_of is not None:
            return lambda submit: guarded(self.check, submit, position_of)
        return GuardedBlock(self.check, order, position, working)

    @property
    def is_open(self) -> bool:
        """Whether every order passes right now."""
        return self._now_polled() < self._allowed.deadline

    def wait_until_open(self, timeout: float) -> bool:
        """Wait until every order passes.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether it came to that.
        """
        give_up = time.monotonic() + timeout
        while not self.is_open:
            if time.monotonic() >= give_up:
                return False
            time.sleep(min(POLL_INTERVAL, timeout))
        return True

    async def wait_until_open_async(self, timeout: float) -> bool:
        """See `Gate.wait_until_open`."""
        give_up = time.monotonic() + timeout
        while not self.is_open:
            if time.monotonic() >= give_up:
                return False
            await asyncio.sleep(min(POLL_INTERVAL, timeout))
        return True

    def on_change(self, callback: Callable[[GateStatus], None]) -> None:
        """Call `callback` when the gate's reason changes, about 10 ms later, in a thread apart.

        Args:
            callback: Given the new status. An exception in it is logged and goes no further.
        """
        self._notifier.add(callback)

    def watch_feeds(self, rules: Rules, feeds: Sequence[str], every: float = 5.0) -> None:
        """Have this process judge the age of data until the gate is closed.

        Any number of gates may do so; whichever looks first trips, once.

        Args:
            rules: Whose limits apply, and whose breaker is tripped.
            feeds: The feeds' names, as for `Rules.check_staleness`.
            every: Seconds between two looks.
        """
        from breaker.gate.staleness_watch import StalenessWatch  # noqa: PLC0415 -- brings redis with it

        watch = StalenessWatch(rules, feeds, every)
        self._watches.append(watch)
        watch.start()

    def status(self) -> GateStatus:
        """What is known now, for health pages. Reads nothing from Redis."""
        now, (lease, halt) = self._now_polled(), self._known
        halt = halt or self._source.halt or gate_halt(lease, now) or scope_halt(lease.views)
        quiet = any(view.state is ScopeState.QUIET_PERIOD for view in lease.views)
        if halt is None:
            word = "A breaker is in its quiet period." if quiet else "Every breaker is open."
            halt = Halt(Reason.QUIET_PERIOD if quiet else Reason.OPEN, word)
        return GateStatus(
            is_open=halt.reason is Reason.OPEN,
            reason=halt.reason,
            sentence=halt.sentence,
            backend=self._settings.backend,
            scopes={view.scope: view.state for view in lease.views},
            epochs={view.scope: view.reading.epoch for view in lease.views},
            lease_left=lease.deadline - now,
            connections=self._source.connections,
            problem=self._source.problem,
            quiet_fraction=least_fraction(lease.views, now, self._quiet_limits.start_fraction),
        )

    def restart(self) -> None:
        """Begin anew with a connection of this process's own: after a fork, or after `close`."""
        self._notifier.stop()
        self._source.stop()
        self._stop_reporting()
        self._start()

    def close(self) -> None:
        """Stop listening. From then on only orders that reduce risk pass."""
        self._notifier.stop()
        self._poll_at = math.inf
        while self._watches:
            self._watches.pop().stop()
        self._stop_reporting()
        self._source.stop()
        self._halt(Reason.CLOSED, "The gate was closed; only orders that reduce risk pass.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _start(self) -> None:
        self._halt(Reason.NOT_CONNECTED, "The gate has not heard from Redis yet.")
        self._source = self._settings.make_source(self._publish)
        self._poll_at = math.inf if self._source.poll_every == math.inf else EXPIRED
        self._poll = self._source.poll if self._source.poll_every == 0 else self._poll_now_and_then
        self._source.start()
        self._start_reporting()
        self._notifier.start()

    def _halt(self, reason: Reason, sentence: str) -> None:
        self._publish(self._settings.empty_lease(), Halt(reason, sentence))

    def _publish(self, lease: Lease, halt: Halt | None) -> None:
        self._known = lease, halt
        self._allowed = blanket_decision(lease, halt)

    def _poll_now_and_then(self, now: float) -> None:
        self._source.poll(now)
        self._poll_at = clock.now() + self._source.poll_every

    def _now_polled(self) -> float:
        now = clock.now()
        if now >= self._poll_at:
            self._poll(now)
        return now

    def _judge(self, now: float, order: Any, position: Any, working: Iterable[Any]) -> Decision:
        try:
            self._source.refresh()
            (lease, halt), limits, rate, held = self._known, self._quiet_limits, self._order_rate, self._reservations
            halt = halt or self._source.halt
            with held.lock:
                decision = judge(lease, halt, now, order, position, working, limits, rate, held.active(now))
                decision = held.reserve(decision, order, now)
        except Exception as error:
            sentence = f"The order could not be judged ({type(error).__name__}: {error}); nothing was sent."
            decision = Decision(False, Reason.INVALID_ORDER, sentence)
        if not decision:
            self._refused += 1
        elif decision.reason in (Reason.REDUCES_RISK, Reason.CANCEL):
            self._reduced += 1
        else:
            self._admitted += 1
        return decision

    def _start_reporting(self) -> None:
        # Counts belong to an id, and a forked process or a restarted gate takes a new one.
        self._gate_id = secrets.token_hex(8)
        self._admitted = self._reduced = self._refused = 0
        if self._reports:
            from breaker.gate.reporter import Reporter  # noqa: PLC0415 -- only gates that report

            self._reporter = Reporter(self._report, self._settings.report_sender())
            self._reporter.start()

    def _stop_reporting(self) -> None:
        if self._reporter is not None:
            self._reporter.stop()
            self._reporter = None

    def _report(self) -> GateReport:
        from breaker.gate.report import MAX_REPORT_SCOPES, GateReport  # noqa: PLC0415

        status = self.status()
        lease, _ = self._known
        return GateReport(
            gate_id=self._gate_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            backend=self._settings.backend,
            scopes=self._settings.scopes[:MAX_REPORT_SCOPES],
            reason=status.reason,
            lease_age=None if status.lease_left == EXPIRED else lease.max_staleness - status.lease_left,
            connections=status.connections,
            checks={"admitted": self._admitted, "reduced": self._reduced, "refused": self._refused},
            compared=self._settings.topology.compared,
        )

    def _after_fork(self) -> None:
        self._reservations.renew_lock()
        self._order_rate.renew_lock()
        halt = self._source.forked()
        if halt is not None:
            self._poll_at = math.inf
            self._publish(self._settings.empty_lease(), halt)
        self._stop_reporting()
        if halt is None:
            self._start_reporting()


_gates: weakref.WeakSet[Gate] = weakref.WeakSet()


def _close_inherited_gates() -> None:
    for gate in tuple(_gates):
        gate._after_fork()


os.register_at_fork(after_in_child=_close_inherited_gates)
