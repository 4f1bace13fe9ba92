"""Every way in which callers, one breaker, its ledger and a failing world can misunderstand each other.

Searched breadth first, to the end. A script is one step, as Redis makes it; everything around it is taken apart: a call
is asked for, looks (a reset does), is on its way for any time, is executed, and its answer arrives or is lost; it is
sent again under its event id, or given up while it may still arrive; a trip that is given up is kept on disk and made
later; the drain reads, appends and deletes, and dies in between; Redis is flushed, or falls back to what it last had on
its disk; time passes. What Redis holds is the sequential machine of `breaker_rules`.

The promises, as invariants, are in `violation`; each mutant of `Behaviour` breaks one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from breaker.state import State, Status, is_older
from proofs.models.breaker_rules import (
    DONE,
    GARBAGE,
    MISSING,
    OPEN,
    QUIET_PERIOD,
    REPEATED,
    RESET,
    TRIP,
    TRIPPED,
    EndQuietPeriod,
    Held,
    Initialize,
    Override,
    Record,
    Reset,
    Transition,
    Trip,
    apply,
)

TICK = 1_000_000
BEGIN = 1_000 * TICK
QUIET, LIMIT = 1 * TICK, 2 * TICK
BY_HAND = "by hand"
AGAIN = " again"
"""What a mutant names a call that it sends again."""


class Sent(NamedTuple):
    """One copy of a call on its way to Redis. `since`: how many trips there had been when it was asked for,
    or, for a reset, when it looked at what it is for.
    """

    call: Transition
    since: int
    from_disk: bool = False


class Asking(NamedTuple):
    """A caller who waits. `looked` is false until a reset has read which epoch it is for."""

    call: Transition
    since: int
    looked: bool = True


class Left(NamedTuple):
    """How often each thing may still happen, for which a search ends. Without `crashes` every write is durable."""

    calls: int = 3
    retries: int = 1
    ticks: int = 0
    crashes: int = 0
    flushes: int = 0
    overrides: int = 0
    reads: int = 0
    drains: int = 0
    pending: int = 0


class World(NamedTuple):
    left: Left
    redis: Held = Held()
    outbox: tuple[Record, ...] = ()
    on_disk: tuple[Held, tuple[Record, ...]] = (Held(), ())
    """State and outbox as a crash of Redis would leave them."""
    now: int = BEGIN
    asking: tuple[Asking, ...] = ()
    sent: tuple[Sent, ...] = ()
    kept: tuple[Trip, ...] = ()
    """Trips on a caller's disk."""
    draining: tuple[Record, ...] = ()
    drained: bool = False
    """Whether the first of the drain's two steps after reading is done."""
    ledger: tuple[Record, ...] = ()
    newest: tuple[str, int] | None = None
    """The newest state that the reader has seen, and its epoch."""
    allowed: bool = False
    """What the reader said last."""
    found_over: bool = False
    """A mutant has found a quiet period over and is about to write so."""
    # What nobody in the model knows, and the invariants need:
    asked: int = 0
    trips: tuple[str, ...] = ()
    """Trips executed, in their order, those included that Redis has lost since."""
    decided: bool = False
    """Somebody decided that trading may go on, having asked for it after every trip."""
    trips_read: int = 0
    """How many trips there had been when the one that the reader saw last was made."""
    decided_for_reader: bool = True
    by_hand: bool = False
    acknowledged: frozenset[str] = frozenset()
    promised: frozenset[str] = frozenset()
    """Trips that a caller was told are on its disk."""
    lost: str = ""
    """How Redis lost what it had acknowledged: "flush" or "crash"."""
    wrong: str | None = None
    """What the last step itself did wrong."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What mutants change."""

    pins_resets: bool = True
    reuses_event_id: bool = True
    end_looks: bool = True
    expiry_writes: bool = False
    records_with_state: bool = True
    failed_reset_takes_token: bool = False
    limits_resets: bool = True
    creates_when_missing: bool = False
    trips_when_missing: bool = True
    keeps_second_trip: bool = True
    resets_only_trips: bool = True
    appends_before_deleting: bool = True
    appends_once: bool = True
    deletes_only_what_it_read: bool = True
    forgets_after_answer: bool = True
    reader_remembers: bool = True
    reader_compares_halts: bool = True
    epochs_begin_with_time: bool = True


SOUND = Behaviour()


@dataclass(frozen=True, slots=True)
class Result:
    states: int
    steps: int
    violation: tuple[str, ...] | None
    """The shortest way to a broken promise; None if there is none."""
    recorded: frozenset[str]
    """The transitions that came about, lest a breaker that does nothing keeps every promise."""


def search(behaviour: Behaviour, start: World, kinds: tuple[str, ...]) -> Result:
    """All worlds that calls of these `kinds` can lead to, or the shortest way to one that breaks a promise."""
    came_from: dict[World, tuple[World, str] | None] = {start: None}
    frontier = deque([start])
    recorded: set[str] = set()
    taken = 0
    while frontier:
        world = frontier.popleft()
        broken = violation(world)
        if broken is not None:
            return Result(len(came_from), taken, (*_way(came_from, world), broken), frozenset(recorded))
        recorded.update(record.transition for record in world.redis.recorded[-1:])
        for action, following in steps(world, behaviour, kinds):
            taken += 1
            way = world, action
            if came_from.setdefault(following, way) is way:
                frontier.append(following)
    return Result(len(came_from), taken, None, frozenset(recorded))


def _way(came_from: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    actions: list[str] = []
    step = came_from[world]
    while step is not None:
        world, action = step
        actions.append(action)
        step = came_from[world]
    return actions[::-1]


# --- the promises -------------------------------------------------------------------------------------------------


def violation(world: World) -> str | None:
    """The promise that this world breaks, beginning with its number; None if it keeps them all."""
    return world.wrong or _trading(world) or _agreement(world) or _resets(world) or _audit(world)


def _trading(world: World) -> str | None:
    """Nobody trades but by a decision that was asked for after every trip; a lost trip binds those who saw it."""
    if world.redis.word_at(world.now) in (OPEN, QUIET_PERIOD) and not world.decided and world.lost != "crash":
        return "1, 2: it lets trade, and nobody has decided so since the last trip"
    if world.allowed and not world.decided_for_reader:
        return "1, 2: a reader lets trade after a trip that it has seen, and nobody has decided so since"
    return None


def _agreement(world: World) -> str | None:
    """State, history and outbox agree at every moment."""
    redis = world.redis
    if world.by_hand or redis.word == MISSING:
        return None
    if not redis.recorded:
        return "4: there is a state, and no event"
    newest = redis.recorded[-1]
    if (redis.word, redis.epoch) != (newest.to, newest.epoch):
        return "4: the state is not what the newest event says"
    if world.outbox and world.outbox[-1] != newest:
        return "4: the newest event of the outbox is not that of the history"
    return None


def _resets(world: World) -> str | None:
    """From TRIPPED only, one within the limit, and only a reset uses it up."""
    resets = [record for record in world.redis.recorded if record.transition == RESET]
    if any(record.origin != TRIPPED for record in resets):
        return "9: what was not tripped was reset"
    if any(later.at - earlier.at < LIMIT for earlier, later in pairwise(resets)):
        return "9: two resets within the limit"
    if world.redis.limited_until > world.now and not resets:
        return "9: resets are limited, and there was none"
    return None


def _audit(world: World) -> str | None:
    """Each event is in outbox or ledger at every moment, once, in its order, and what was promised is kept."""
    ids = [record.event_id for record in world.ledger]
    recorded = [record.event_id.removesuffix(AGAIN) for record in world.redis.recorded]
    outbox = {record.event_id.removesuffix(AGAIN) for record in world.outbox}
    if len({*ids}) != len(ids) or len({*recorded}) != len(recorded):
        return "8: what was asked for once is there twice"
    if not {*recorded} <= outbox.union(ids):
        return "8: an event is neither in the outbox nor in the ledger"
    if not world.lost and not world.acknowledged <= {*recorded}:
        return "8: an acknowledged transition is not recorded"
    if not world.lost and not world.promised <= {trip.event_id for trip in world.kept}.union(recorded):
        return "5: a trip that was kept on disk is gone, and was not made"
    epochs = [record.epoch for record in {*world.ledger, *world.redis.recorded}]
    if world.lost != "crash" and (len({*epochs}) != len(epochs) or [*world.ledger] != sorted(world.ledger, key=_epoch)):
        return "4: an epoch came twice, or out of order"
    return None


def _epoch(record: Record) -> int:
    return record.epoch


# --- what may happen next -----------------------------------------------------------------------------------------


def steps(world: World, behaviour: Behaviour, kinds: tuple[str, ...]) -> Iterator[tuple[str, World]]:
    yield from _callers(world, behaviour, kinds)
    for index in range(len(world.sent)):
        yield from _executed(world, behaviour, index)
    yield from _pending(world, behaviour)
    yield from _drain(world, behaviour)
    yield from _reads(world, behaviour)
    yield from _accidents(world, behaviour)


def _spend(world: World, what: str) -> World:
    return world._replace(left=world.left._replace(**{what: getattr(world.left, what) - 1}))


def _callers(world: World, behaviour: Behaviour, kinds: tuple[str, ...]) -> Iterator[tuple[str, World]]:
    if world.left.calls:
        for kind in kinds:
            call = _call(world, kind)
            if call is not None:
                asking = Asking(call, len(world.trips), looked=kind != "reset")
                asked = _spend(world, "calls")._replace(asking=(*world.asking, asking), asked=world.asked + 1)
                yield f"{call.event_id} is asked for", _send(asked, call, len(world.trips)) if asking.looked else asked
    for index, asking in enumerate(world.asking):
        call = asking.call
        others = (*world.asking[:index], *world.asking[index + 1 :])
        if not asking.looked:
            assert isinstance(call, Reset)
            epoch = "none" if world.redis.epoch is None else world.redis.epoch
            meant = replace(call, epoch=epoch) if behaviour.pins_resets else call
            looked = world._replace(asking=(*others, Asking(meant, len(world.trips))))
            yield f"{call.event_id} looks", _send(looked, meant, len(world.trips))
            continue
        if world.left.retries:
            again = call if behaviour.reuses_event_id else replace(call, event_id=call.event_id + AGAIN)
            yield f"{call.event_id} is sent again", _send(_spend(world, "retries"), again, asking.since)
        if isinstance(call, Trip) and world.left.pending:
            kept = world._replace(asking=others, kept=(*world.kept, call), promised=world.promised | {call.event_id})
            yield f"{call.event_id} is given up and kept on disk", kept


def _call(world: World, kind: str) -> Transition | None:
    name = f"{kind}-{world.asked}"
    match kind:
        case "trip":
            return Trip(name, incident=name)
        case "reset":
            return Reset(name, QUIET, LIMIT)
        case "end":  # which only the watch of a quiet period asks for
            held = world.redis
            return EndQuietPeriod(name, held.epoch) if held.word == QUIET_PERIOD and held.epoch is not None else None
    return Initialize(name, force=kind == "force")


def _send(world: World, call: Transition, since: int, *, from_disk: bool = False) -> World:
    return world._replace(sent=tuple(sorted((*world.sent, Sent(call, since, from_disk)), key=_name)))


def _name(sent: Sent) -> str:
    return f"{sent.call.event_id}{sent.from_disk}"


def _executed(world: World, behaviour: Behaviour, index: int) -> Iterator[tuple[str, World]]:
    """A script runs, and its answer arrives or is lost."""
    sent = world.sent[index]
    if sent in world.sent[:index]:
        return
    name = sent.call.event_id
    done, succeeded = _execute(world._replace(sent=(*world.sent[:index], *world.sent[index + 1 :])), sent, behaviour)
    yield f"{name} is executed, and its answer is lost", done
    if sent.from_disk:
        yield f"{name} is executed from disk", done._replace(kept=tuple(t for t in done.kept if t != sent.call))
        return
    waiting = tuple(asking for asking in done.asking if not name.startswith(asking.call.event_id))
    if waiting != done.asking:
        acknowledged = done.acknowledged | {name} if succeeded else done.acknowledged
        yield f"{name} is executed", done._replace(asking=waiting, acknowledged=acknowledged)


def _execute(world: World, sent: Sent, behaviour: Behaviour) -> tuple[World, bool]:
    """One script, as Redis runs it. Also whether its caller is told that it was done."""
    before, call, now = world.redis, sent.call, world.now
    if isinstance(call, Reset) and not behaviour.limits_resets:
        call = replace(call, interval=0)
    subject = before
    if isinstance(call, EndQuietPeriod) and not behaviour.end_looks:
        subject = before._replace(word=QUIET_PERIOD, epoch=call.epoch)
    if isinstance(call, Reset) and not behaviour.resets_only_trips and before.word == OPEN:
        subject = before._replace(word=TRIPPED)
    outcome, after = apply(subject, call, now)
    if isinstance(call, Trip):
        if not behaviour.trips_when_missing and before.word == MISSING:
            outcome, after = "NOT_INITIALISED", before
        if not behaviour.keeps_second_trip and before.word == TRIPPED:
            return world, True
        if outcome not in (DONE, REPEATED):
            return world._replace(wrong="2: a trip was refused"), False
    if outcome != DONE:
        if outcome == "NOT_TRIPPED" and behaviour.failed_reset_takes_token:
            return world._replace(redis=before._replace(limited_until=now + LIMIT)), False
        return world, outcome == REPEATED
    return _happened(world, sent, after, behaviour), True


def _happened(world: World, sent: Sent, after: Held, behaviour: Behaviour) -> World:
    before, call, record = world.redis, sent.call, after.recorded[-1]
    if before.word != TRIPPED and record.transition == RESET:
        record = record._replace(origin=before.word)
    if not behaviour.epochs_begin_with_time and not before.recorded and before.epoch is None:
        record = record._replace(epoch=1)
    after = after._replace(epoch=record.epoch, recorded=(*before.recorded, record))
    if not behaviour.records_with_state:
        after = after._replace(recorded=before.recorded)
        return world._replace(redis=after)
    wrong = world.wrong
    if isinstance(call, EndQuietPeriod) and call.epoch != before.epoch:
        wrong = "2: the end of a quiet period was written over a newer state"
    trips, decided, for_reader = world.trips, world.decided, world.decided_for_reader
    match call:
        case Trip():
            trips, decided = (*trips, call.event_id), False
        case Reset():
            decided, for_reader = sent.since == len(trips), for_reader or sent.since >= world.trips_read
        case Initialize():
            # It never overwrites a trip. One that the network held back over a flush can't be told from one asked for
            # after it, so the decision counts from when it takes effect.
            decided = for_reader = True
    return world._replace(
        redis=after,
        outbox=(*world.outbox, record),
        by_hand=False,
        trips=trips,
        decided=decided,
        decided_for_reader=for_reader,
        wrong=wrong,
    )


def _pending(world: World, behaviour: Behaviour) -> Iterator[tuple[str, World]]:
    if world.left.pending:
        for trip in world.kept:
            sent = _send(_spend(world, "pending"), trip, len(world.trips), from_disk=True)
            if not behaviour.forgets_after_answer:
                sent = sent._replace(kept=tuple(other for other in sent.kept if other != trip))
            yield f"{trip.event_id} is sent from disk", sent


def _drain(world: World, behaviour: Behaviour) -> Iterator[tuple[str, World]]:
    if not world.draining:
        if world.left.drains and world.outbox:
            yield "the drain reads", _spend(world, "drains")._replace(draining=world.outbox)
        return
    yield "the drain dies", _drain_over(world)
    if world.drained == behaviour.appends_before_deleting:
        gone = world.draining if behaviour.deletes_only_what_it_read else world.outbox
        deleted = world._replace(outbox=tuple(record for record in world.outbox if record not in gone))
        yield "the drain deletes", _drain_over(deleted) if world.drained else deleted._replace(drained=True)
    else:
        known = {record.event_id for record in world.ledger} if behaviour.appends_once else set()
        new = tuple(record for record in world.draining if record.event_id not in known)
        appended = world._replace(ledger=(*world.ledger, *new))
        yield "the drain appends", _drain_over(appended) if world.drained else appended._replace(drained=True)


def _drain_over(world: World) -> World:
    return world._replace(draining=(), drained=False)


def _reads(world: World, behaviour: Behaviour) -> Iterator[tuple[str, World]]:
    if world.left.reads:
        yield "the reader reads", _read(_spend(world, "reads"), behaviour)
    if behaviour.expiry_writes:
        over = world.redis.word == QUIET_PERIOD and world.redis.word_at(world.now) == OPEN
        if over and not world.found_over:
            yield "the quiet period is found to be over", world._replace(found_over=True)
        if world.found_over:
            written = world.redis._replace(word=OPEN, quiet_until=0)
            yield "its end is written", world._replace(redis=written, found_over=False)


def _read(world: World, behaviour: Behaviour) -> World:
    """The reader runs the real comparison of `breaker.state` on what it is told."""
    redis = world.redis
    word = redis.word_at(world.now)
    allowed, newest = word in (OPEN, QUIET_PERIOD), world.newest
    if word in (MISSING, GARBAGE) or redis.epoch is None:
        pass
    elif newest is None or not behaviour.reader_remembers or not _lies_behind((word, redis.epoch), newest, behaviour):
        newest = word, redis.epoch
    else:
        allowed = False
    if word == TRIPPED:
        return world._replace(newest=newest, allowed=False, trips_read=_trips_until(world), decided_for_reader=False)
    return world._replace(newest=newest, allowed=allowed)


def _trips_until(world: World) -> int:
    """The number of the trip that the state tells of: after a crash it may be one before the last."""
    told = next((r.event_id for r in reversed(world.redis.recorded) if r.transition == TRIP), BY_HAND)
    if world.by_hand:
        told = BY_HAND
    return len(world.trips) - world.trips[::-1].index(told)


def _lies_behind(told: tuple[str, int], newest: tuple[str, int], behaviour: Behaviour) -> bool:
    if not behaviour.reader_compares_halts:
        return told[1] < newest[1]
    return is_older(*(Status(State(word), {"epoch": epoch}) for word, epoch in (told, newest)))


def _accidents(world: World, behaviour: Behaviour) -> Iterator[tuple[str, World]]:
    left = world.left
    if left.ticks:
        yield "time passes", _spend(world, "ticks")._replace(now=world.now + TICK)
    if left.flushes:
        empty = _spend(world, "flushes")._replace(redis=Held(), outbox=(), now=world.now + TICK)
        yield "Redis is flushed", empty._replace(decided=False, by_hand=False, lost="flush")
    if left.crashes and world.on_disk != (world.redis, world.outbox):
        yield "Redis writes to its disk", world._replace(on_disk=(world.redis, world.outbox))
        redis, outbox = world.on_disk
        fallen = _spend(world, "crashes")._replace(redis=redis, outbox=outbox, lost="crash")
        yield "Redis falls back to what is on its disk", fallen
    if left.overrides:
        for word in (TRIPPED, OPEN, GARBAGE):
            _, redis = apply(world.redis, Override(word), world.now)
            trips = (*world.trips, BY_HAND) if word == TRIPPED else world.trips
            decided = word == OPEN
            for_reader = world.decided_for_reader or decided
            yield (
                f"somebody writes {word}",
                _spend(world, "overrides")._replace(
                    redis=redis, by_hand=True, trips=trips, decided=decided, decided_for_reader=for_reader
                ),
            )
    if behaviour.creates_when_missing and world.redis.word == MISSING:
        yield "a caller starts", world._replace(redis=Held(OPEN, world.now // 1000))
