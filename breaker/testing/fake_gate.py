"""Stand in for a gate in an engine's tests: its states are made up, its answers are those of a real one."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal, Self, TypeAlias

from breaker.gate import clock
from breaker.gate.decision import Decision, Permit
from breaker.gate.gate import Gate
from breaker.gate.judge import Halt, not_connected
from breaker.gate.lease import Lease, ScopeView, StateReading, StoredState, connection_lost, observe
from breaker.gate.quiet_period import QuietPeriod, QuietPeriodLimits
from breaker.gate.state_source import Publish, SourceSettings
from breaker.gate.topology import Topology
from breaker.keys import GLOBAL
from breaker.trip_reasons import TripReason

GateState: TypeAlias = Literal["open", "tripped", "quiet", "disconnected"]
_MAX_STALENESS = 0.2
_QUIET_PERIOD = 300.0


@dataclass(frozen=True, slots=True)
class Question:
    """What an engine asked, and what it was told.

    Attributes:
        kind: Which method: `check` or `recheck`.
        order: The order, as it was given.
        decision: The answer.

    Example:
        >>> from breaker.testing import FakeGate
        >>> gate = FakeGate.tripped()
        >>> _ = gate.check(OrderIntent("AAPL", "buy", 10))
        >>> gate.asked[0].kind, gate.asked[0].order.symbol, bool(gate.asked[0].decision)
        ('check', 'AAPL', False)
    """

    kind: Literal["check", "recheck"]
    order: Any
    decision: Decision


class FakeGate(Gate):
    """A gate without Redis, open until the test says otherwise. All that `Gate` has works, by the same code.

    What it knows never grows old, and a change is known at once; a real gate may take `max_staleness`.

    Args:
        scopes: What it watches beside `global`.
        quiet_limits: What a quiet period allows.
        reserve_for: As for `Gate`.

    Raises:
        InvalidInput: a scope makes no sense.
        ValueError: `reserve_for` makes no sense.

    Example:
        >>> from breaker.testing import FakeGate
        >>> gate = FakeGate()
        >>> order = OrderIntent("AAPL", "buy", 10)
        >>> bool(gate.check(order))
        True
        >>> gate.trip("DRAWDOWN")
        >>> gate.check(order, position=0).reason
        <Reason.TRIPPED: 'TRIPPED'>
        >>> [bool(each.decision) for each in gate.asked]
        [True, False]
    """

    def __init__(
        self,
        scopes: Iterable[str] = (),
        *,
        quiet_limits: QuietPeriodLimits = QuietPeriodLimits(),  # noqa: B008 -- frozen
        reserve_for: float = 10.0,
    ) -> None:
        watched = tuple(dict.fromkeys((GLOBAL, *scopes)))
        self._states = _MadeUpStates(watched)
        self._script: deque[GateState] = deque()
        self._scripted: GateState | None = None
        self._asked: list[Question] = []
        self._settled: list[Permit] = []
        self._begin(_settings(watched, self._states), quiet_limits, reserve_for, report=False)

    @classmethod
    def tripped(cls, reason: str = TripReason.MANUAL) -> Self:
        """One whose `global` breaker is tripped.

        Args:
            reason: Why.
        """
        gate = cls()
        gate.trip(reason)
        return gate

    @classmethod
    def quiet(cls, normal_quantity: Decimal | int = 100, seconds: float = _QUIET_PERIOD) -> Self:
        """One whose quiet period begins now.

        Args:
            normal_quantity: The normal size of an order in any symbol, of which a tenth is allowed at first.
            seconds: How long it lasts.
        """
        gate = cls(quiet_limits=QuietPeriodLimits(normal_quantity={"*": normal_quantity}))
        gate.cool_down(seconds)
        return gate

    @classmethod
    def scripted(cls, *states: GateState) -> Self:
        """One that is in the first state until it has been asked once, then in the second, and so on; the last stays.

        Args:
            states: `open`, `tripped`, `quiet` or `disconnected`, each for one `check` or `recheck`.

        Raises:
            ValueError: none is given, or a word is no state.

        Example:
            >>> from breaker.testing import FakeGate
            >>> gate = FakeGate.scripted("open", "tripped")  # tripped between the check and the wire
            >>> order = OrderIntent("AAPL", "buy", 10)
            >>> permit = gate.check(order).permit
            >>> gate.recheck(permit, order).reason
            <Reason.TRIPPED: 'TRIPPED'>
        """
        gate = cls()
        unknown = [state for state in states if state not in gate._ways]
        if unknown or not states:
            raise ValueError(f"a script is made of {', '.join(gate._ways)}, not of {unknown or 'nothing'}")
        gate._script.extend(states)
        gate._next_state()
        return gate

    @property
    def asked(self) -> list[Question]:
        """Every `check` and `recheck`, in order. Clear it between two parts of a test."""
        return self._asked

    @property
    def settled(self) -> list[Permit]:
        """What `settle` was called with, in order."""
        return self._settled

    def trip(self, reason: str = TripReason.MANUAL, scope: str = GLOBAL) -> None:
        """Halt: only what reduces risk passes.

        Args:
            reason: The `trip_reason`.
            scope: Whose breaker.

        Raises:
            ValueError: it doesn't watch that scope.
        """
        self._states.change(scope, StoredState.TRIPPED, trip_reason=reason)

    def reset(self, scope: str = GLOBAL) -> None:
        """Let trade again, without a quiet period.

        Args:
            scope: Whose breaker.

        Raises:
            ValueError: it doesn't watch that scope.
        """
        self._states.change(scope, StoredState.OPEN)

    def cool_down(self, seconds: float = _QUIET_PERIOD, scope: str = GLOBAL) -> None:
        """Begin a quiet period, as a reset does. It ends by `reset`, and not by itself.

        Args:
            seconds: How long it lasts.
            scope: Whose breaker.

        Raises:
            ValueError: it doesn't watch that scope.
        """
        quiet_period = QuietPeriod(ends=clock.now() + seconds, length=seconds)
        self._states.change(scope, StoredState.QUIET_PERIOD, quiet_period=quiet_period)

    def disconnect(self, problem: str = "Connection refused") -> None:
        """Lose Redis: the gate closes until `reconnect`.

        Args:
            problem: What the connection broke by.
        """
        self._states.disconnect(problem)

    def reconnect(self) -> None:
        """Find Redis again, in the state that it would have by now."""
        self._states.connect()

    def check(self, order: Any = None, position: Any = None, working: Iterable[Any] = ()) -> Decision:
        """See `Gate.check`."""
        return self._told("check", order, super().check(order, position, working))

    def recheck(self, permit: Permit, order: Any = None) -> Decision:
        """See `Gate.recheck`."""
        return self._told("recheck", order, super().recheck(permit, order))

    def settle(self, permit: Permit, remaining: Decimal | int | str = 0) -> None:
        """See `Gate.settle`."""
        self._settled.append(permit)
        super().settle(permit, remaining)

    @property
    def _ways(self) -> dict[str, Any]:
        return {"open": self.reset, "tripped": self.trip, "quiet": self.cool_down, "disconnected": self.disconnect}

    def _told(self, kind: Literal["check", "recheck"], order: Any, decision: Decision) -> Decision:
        self._asked.append(Question(kind, order, decision))
        self._next_state()
        return decision

    def _next_state(self) -> None:
        """The same state twice is one that stays: no epoch begins, so a permit goes on standing."""
        if not self._script:
            return
        state = self._script.popleft()
        if state != self._scripted:
            self._scripted = state
            self._states.connect()
            self._ways[state]()


class _MadeUpStates:
    """What Redis would say; a `StateSource`. Each change counts an epoch up, as a transition does.

    As there, a second trip leaves the first one's reason, and a reset of an open breaker changes nothing.
    """

    poll_every = math.inf
    halt: Halt | None = None
    connections = 1

    def __init__(self, scopes: tuple[str, ...]) -> None:
        opened = StateReading(StoredState.OPEN, epoch=1)
        views = tuple(observe(ScopeView(scope), opened) for scope in scopes)
        self._lease = Lease(_MAX_STALENESS, views, deadline=math.inf)
        self._problem: str | None = None
        self._publish: Publish | None = None

    @property
    def problem(self) -> str | None:
        return self._problem

    def published_by(self, publish: Publish) -> _MadeUpStates:
        self._publish = publish
        return self

    def change(
        self,
        scope: str,
        state: StoredState,
        *,
        trip_reason: str | None = None,
        quiet_period: QuietPeriod | None = None,
    ) -> None:
        if scope not in (view.scope for view in self._lease.views):
            raise ValueError(f"the gate does not watch {scope}; name it when it is made")

        def after(view: ScopeView) -> ScopeView:
            was = view.reading
            if state is was.state is StoredState.OPEN:
                return view
            reason = was.trip_reason if state is was.state is StoredState.TRIPPED else trip_reason
            return observe(view, StateReading(state, (was.epoch or 0) + 1, reason, quiet_period))

        views = tuple(after(view) if view.scope == scope else view for view in self._lease.views)
        self._lease = replace(self._lease, views=views)
        self._tell()

    def disconnect(self, problem: str) -> None:
        self._problem = problem
        self._tell()

    def connect(self) -> None:
        self._problem = None
        self._tell()

    def start(self) -> None:
        self._tell()

    def stop(self) -> None:
        self._publish = None

    def poll(self, now: float) -> None: ...

    def refresh(self) -> None: ...

    def forked(self) -> Halt | None:
        return None

    def _tell(self) -> None:
        if self._publish is None:
            return
        if self._problem is None:
            self._publish(self._lease, None)
        else:
            self._publish(connection_lost(self._lease), not_connected(self._problem))


@dataclass(frozen=True, slots=True)
class _MadeUpSettings(SourceSettings):
    states: _MadeUpStates

    def make_source(self, publish: Publish) -> _MadeUpStates:
        return self.states.published_by(publish)


def _settings(scopes: tuple[str, ...], states: _MadeUpStates) -> _MadeUpSettings:
    # The address is checked as any gate's is, and never used.
    heartbeat = _MAX_STALENESS / 4
    return _MadeUpSettings(
        "redis://nowhere", scopes, _MAX_STALENESS, heartbeat, "thread", Topology.single(), None, None, states
    )
