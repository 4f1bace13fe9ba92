"""Every way in which gates, one Redis and its replica can misunderstand each other, searched breadth first.

The gates run the real functions of `breaker.gate.lease`; around them are modelled a primary A and a replica B,
replication and messages that take any time or never arrive, connections that break, a failover to B at any moment
while A may live on, crash, or come back as B's replica, and a trip and a reset. Clients trip the primary in office.

Time is relative to now and forgets what is older than a lease, so the search is exhaustive without a horizon: it ends
because there are no further states.

The guarantee, as invariants:
1. Once a trip is `staleness` old no gate is clear, until a reset; unless the trip was lost in a failover to a replica
   that never received it.
2. A gate that has read a trip is never clear again before a reset, lost or not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from breaker.gate.decision import EXPIRED
from breaker.gate.lease import (
    Lease,
    ScopeView,
    StateReading,
    StoredState,
    connection_lost,
    heartbeat_confirmed,
    heartbeat_sent,
    invalidated,
    states_read,
)

INVALIDATION = "invalidation"
OPEN = StateReading(StoredState.OPEN, epoch=1)


@dataclass(frozen=True, slots=True)
class Executing:
    """A heartbeat that its server has executed, and whose WAIT is not over."""

    reading: StateReading
    acknowledged: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    reading: StateReading
    replicas: int


@dataclass(frozen=True, slots=True)
class Gate:
    lease: Lease
    server: str = "A"
    """Where its connection leads; '' while it has none."""
    asked: int = 0
    """Heartbeats on their way to the server."""
    executing: Executing | None = None
    arriving: tuple[Reply | str, ...] = ()
    """Replies and pushes on their way back, in order."""
    has_read_trip: bool = False
    _hash: list[int] = field(default_factory=list, init=False, compare=False, repr=False)

    def __hash__(self) -> int:
        """Kept, because most steps leave most gates as they are."""
        if not self._hash:
            self._hash.append(
                hash((self.lease, self.server, self.asked, self.executing, self.arriving, self.has_read_trip))
            )
        return self._hash[0]

    @property
    def is_clear(self) -> bool:
        return self.lease.clear_until > 0


class World(NamedTuple):
    staleness: int
    """Ticks for which a lease lasts."""
    gates: tuple[Gate, ...]
    a: StateReading = OPEN
    b: StateReading = OPEN
    a_up: bool = True
    b_promoted: bool = False
    a_follows_b: bool = False
    replicating: tuple[StateReading | int, ...] = ()
    """Writes that B has not applied yet, in order: a state, or the heartbeat of the gate with that number."""
    trip_age: int | None = None
    trips_left: int = 1
    resets_left: int = 1
    is_before_reset: bool = True


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What mutants change about the gates."""

    replicas: int = 1
    confirmed: Callable[[Lease, int], Lease] = heartbeat_confirmed
    read: Callable[[Lease, tuple[StateReading, ...]], Lease] = states_read
    pushed: Callable[[Lease], Lease] = invalidated


@dataclass(frozen=True, slots=True)
class Result:
    states: int
    violation: tuple[str, ...] | None
    """The shortest way to a broken invariant; None if there is none."""
    opened: bool
    """Whether a gate was ever clear: a gate that is always closed would keep every promise."""
    reopened: bool
    """Whether a gate was clear again after the reset."""


def search(
    behaviour: Behaviour, *, staleness: int, gates: int, in_flight: int, resets: int, within: int | None = None
) -> Result:
    """All states that can be reached, or the shortest way to one that breaks the guarantee.

    `in_flight` bounds each gate's unanswered heartbeats; `resets` is 0 or 1. `within` bounds the steps from the start:
    the search is then no proof, but has missed no way of so many steps.
    """
    lease = Lease(staleness, (ScopeView("global"),), behaviour.replicas)
    start = World(staleness, tuple(Gate(lease) for _ in range(gates)), resets_left=resets)
    came_from: dict[World, tuple[World, str] | None] = {start: None}
    frontier = deque([(start, 0)])
    opened = reopened = False
    while frontier:
        world, depth = frontier.popleft()
        clear = any(gate.is_clear for gate in world.gates)
        opened, reopened = opened or clear, reopened or (clear and not world.is_before_reset)
        broken = violation(world)
        if broken is not None:
            return Result(len(came_from), (*_way(came_from, world), broken), opened, reopened)
        if depth == within:
            continue
        for action, step in steps(world, behaviour, in_flight):
            following = _canonical(step)
            if following not in came_from:
                came_from[following] = world, action
                frontier.append((following, depth + 1))
    return Result(len(came_from), None, opened, reopened)


def _canonical(world: World) -> World:
    """Gates are alike, so worlds that differ only in how they are numbered are one; a way may renumber them."""
    order = sorted(range(len(world.gates)), key=lambda number: hash(world.gates[number]))
    if order == [*range(len(order))]:
        return world
    place = {old: new for new, old in enumerate(order)}
    replicating = tuple(write if isinstance(write, StateReading) else place[write] for write in world.replicating)
    return world._replace(gates=tuple(world.gates[old] for old in order), replicating=replicating)


def violation(world: World) -> str | None:
    for number, gate in enumerate(world.gates):
        if gate.is_clear and gate.has_read_trip:
            return f"gate {number} is clear although it has read the trip"
        if gate.is_clear and world.trip_age is not None and world.trip_age >= world.staleness:
            return f"gate {number} is clear {world.trip_age} ticks after the trip"
    return None


def steps(world: World, behaviour: Behaviour, in_flight: int) -> Iterator[tuple[str, World]]:
    """Everything that can happen next."""
    yield "tick", _tick(world)
    yield from _transitions(world)
    yield from _failover(world)
    for number, gate in enumerate(world.gates):
        for action, following in _gate_steps(world, number, gate, behaviour, in_flight):
            yield f"gate {number} {action}", following


def _tick(world: World) -> World:
    def aged(lease: Lease) -> Lease:
        sent = tuple(s if s == EXPIRED else max(s - 1, -world.staleness) for s in lease.sent)
        deadline = lease.deadline - 1
        return replace(lease, sent=sent, deadline=deadline if deadline > 0 else EXPIRED)

    gates = tuple(replace(gate, lease=aged(gate.lease)) for gate in world.gates)
    age = None if world.trip_age is None else min(world.trip_age + 1, world.staleness)
    return world._replace(gates=gates, trip_age=age)


def _transitions(world: World) -> Iterator[tuple[str, World]]:
    primary = world.b if world.b_promoted else world.a
    if not (world.b_promoted or world.a_up):
        return
    if world.trips_left:
        tripped = StateReading(StoredState.TRIPPED, epoch=(primary.epoch or 0) + 1)
        yield "trip", _write(world, tripped)._replace(trip_age=0, trips_left=world.trips_left - 1)
    if world.resets_left and primary.state is StoredState.TRIPPED:
        opened = _write(world, StateReading(StoredState.OPEN, epoch=(primary.epoch or 0) + 1))
        gates = tuple(replace(gate, has_read_trip=False) for gate in opened.gates)
        yield "reset", opened._replace(gates=gates, trip_age=None, resets_left=0, is_before_reset=False)


def _write(world: World, state: StateReading) -> World:
    """The primary executes a write, pushes it to its gates and passes it on to its replica."""
    name = "B" if world.b_promoted else "A"
    gates = tuple(
        replace(gate, arriving=(*gate.arriving, INVALIDATION)) if gate.server == name else gate for gate in world.gates
    )
    if world.b_promoted:
        return world._replace(gates=gates, b=state, a=state if world.a_follows_b else world.a)
    return world._replace(gates=gates, a=state, replicating=(*world.replicating, state))


def _failover(world: World) -> Iterator[tuple[str, World]]:
    if world.replicating and not world.b_promoted:
        first, *later = world.replicating
        applied = world._replace(replicating=tuple(later))
        if isinstance(first, StateReading):
            yield "replicate a state", applied._replace(b=first)
        else:
            yield f"replicate gate {first}'s heartbeat", _acknowledge(applied, first)
    if not world.b_promoted:
        lost = any(
            isinstance(write, StateReading) and write.state is StoredState.TRIPPED for write in world.replicating
        )
        age = None if lost else world.trip_age
        yield "promote B", world._replace(b_promoted=True, replicating=(), trip_age=age)
    if world.a_up and not world.a_follows_b:
        yield "crash A", _leave(world._replace(a_up=False), "A")
    if world.b_promoted and not world.a_follows_b:
        yield "A follows B", _leave(world._replace(a_up=True, a_follows_b=True, a=world.b), "A")


def _acknowledge(world: World, number: int) -> World:
    gate = world.gates[number]
    if gate.executing is None:
        return world
    return _with(world, number, replace(gate, executing=replace(gate.executing, acknowledged=True)))


def _leave(world: World, server: str) -> World:
    """The server's connections are gone at once; a gate that does not hear of it is one whose messages never come."""
    gates = tuple(_hang_up(gate) if gate.server == server else gate for gate in world.gates)
    return world._replace(gates=gates, replicating=tuple(w for w in world.replicating if isinstance(w, StateReading)))


def _hang_up(gate: Gate) -> Gate:
    return replace(gate, lease=connection_lost(gate.lease), server="", asked=0, executing=None, arriving=())


def _gate_steps(
    world: World, number: int, gate: Gate, behaviour: Behaviour, in_flight: int
) -> Iterator[tuple[str, World]]:
    if not gate.server:
        if world.a_up and not world.a_follows_b:
            yield "connects to A", _with(world, number, replace(gate, server="A"))
        if world.b_promoted:
            yield "connects to B", _with(world, number, replace(gate, server="B"))
        return
    if len(gate.lease.sent) < in_flight:
        asking = replace(gate, lease=heartbeat_sent(gate.lease, 0), asked=gate.asked + 1)
        yield "sends a heartbeat", _with(world, number, asking)
    if gate.asked and gate.executing is None:
        yield "is heard", _execute(world, number, gate)
    if gate.executing is not None:
        replicas = int(gate.executing.acknowledged)
        if gate.server == "B":
            replicas = int(world.a_follows_b)
        reply = Reply(gate.executing.reading, replicas)
        answered = _with(world, number, replace(gate, executing=None, arriving=(*gate.arriving, reply)))
        yield "is answered", _forget_heartbeat(answered, number)
    if gate.arriving:
        yield "takes in a message", _with(world, number, _take_in(gate, behaviour, world.is_before_reset))
    yield "loses its connection", _forget_heartbeat(_with(world, number, _hang_up(gate)), number)


def _forget_heartbeat(world: World, number: int) -> World:
    """Nobody waits for its replication any more."""
    return world._replace(replicating=tuple(write for write in world.replicating if write != number))


def _execute(world: World, number: int, gate: Gate) -> World:
    reading = world.a if gate.server == "A" else world.b
    heard = _with(world, number, replace(gate, asked=gate.asked - 1, executing=Executing(reading)))
    if gate.server == "A" and not world.b_promoted:
        return heard._replace(replicating=(*world.replicating, number))
    return heard


def _take_in(gate: Gate, behaviour: Behaviour, before_reset: bool) -> Gate:
    message, *later = gate.arriving
    gate = replace(gate, arriving=tuple(later))
    if isinstance(message, str):
        return replace(gate, lease=behaviour.pushed(gate.lease))
    lease = behaviour.confirmed(behaviour.read(gate.lease, (message.reading,)), message.replicas)
    has_read_trip = gate.has_read_trip or (before_reset and message.reading.state is StoredState.TRIPPED)
    return replace(gate, lease=lease, has_read_trip=has_read_trip)


def _with(world: World, number: int, gate: Gate) -> World:
    return world._replace(gates=(*world.gates[:number], gate, *world.gates[number + 1 :]))


def _way(came_from: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    actions: list[str] = []
    step = came_from[world]
    while step is not None:
        world, action = step
        actions.append(action)
        step = came_from[world]
    return actions[::-1]
