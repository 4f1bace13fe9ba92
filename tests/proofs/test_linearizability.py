"""The checker finds an order where there is one, and refuses each kind of broken history."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.models.breaker_history import Action, Agreement, Between, Change, Everything, Moment, Refusal, Seen, step
from proofs.models.breaker_rules import (
    OPEN,
    QUIET_PERIOD,
    TRIPPED,
    ApiError,
    Call,
    EndQuietPeriod,
    Held,
    Initialize,
    Override,
    Record,
    Reset,
    Trip,
    apply,
)
from proofs.models.linearizability import Operation, SearchTooLong, check

SECOND = 1_000_000
START = 1_700_000_000 * SECOND
E = (START + 50_000) // 1000
"""The epoch of the story's first transition: the time, in milliseconds."""
QUIET, LIMIT = 10 * SECOND, 60 * SECOND

# --- a register, whose histories are known from the literature ----------------------------------------------------

Register = tuple[Literal["write", "read"], int]


def register(value: int, action: Register) -> Iterable[int]:
    kind, wanted = action
    if kind == "write":
        return [wanted]
    return [value] if value == wanted else []


def of(*operations: tuple[Register, float, float]) -> list[Operation[Register]]:
    return [Operation(action, called, returned) for action, called, returned in operations]


GOOD = {
    "nothing happened": of(),
    "a read overlaps the write and sees it": of((("write", 1), 0, 10), (("read", 1), 1, 2)),
    "a read overlaps the write and does not see it": of((("write", 1), 0, 10), (("read", 0), 1, 2)),
    "an unknown write is seen late": of((("write", 1), 0, math.inf), (("read", 0), 1, 2), (("read", 1), 8, 9)),
    "an unknown write is never seen": of((("write", 1), 0, math.inf), (("read", 0), 8, 9)),
    "two writes, seen in an order of their own": of(
        (("write", 1), 0, 10), (("write", 2), 0, 10), (("read", 2), 1, 2), (("read", 1), 3, 4)
    ),
}
BAD = {
    "a stale read": of((("write", 1), 0, 1), (("read", 0), 2, 3)),
    "a read of what nobody wrote": of((("read", 7), 0, 1)),
    "a write seen before it was asked for": of((("read", 1), 0, 1), (("write", 1), 2, 3)),
    "an unknown write is seen, and then not": of((("write", 1), 0, math.inf), (("read", 1), 1, 2), (("read", 0), 3, 4)),
    "two readers who disagree on the order": of(
        (("write", 1), 0, 10), (("write", 2), 0, 10), (("read", 1), 11, 12), (("read", 2), 13, 14)
    ),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_a_history_that_could_have_happened_is_accepted(history: list[Operation[Register]]) -> None:
    assert check(history, 0, register).is_linearizable


@pytest.mark.parametrize("history", BAD.values(), ids=BAD)
def test_a_history_that_could_not_is_refused(history: list[Operation[Register]]) -> None:
    assert not check(history, 0, register).is_linearizable


def by_definition(history: Sequence[Operation[Register]]) -> bool:
    """Every order of every choice of unknown operations, tried one by one."""
    unknown = [operation for operation in history if not operation.must_happen]
    for chosen in range(1 << len(unknown)):
        dropped = [operation for bit, operation in enumerate(unknown) if not chosen >> bit & 1]
        there = [operation for operation in history if operation not in dropped]
        for order in permutations(there):
            in_time = all(a.called <= b.returned for i, a in enumerate(order) for b in order[i + 1 :])
            states = {0}
            for operation in order:
                states = {after for state in states for after in register(state, operation.action)}
            if in_time and states:
                return True
    return False


def an_operation(action: Register, called: int, lasts: int) -> Operation[Register]:
    return Operation(action, called, math.inf if lasts == 9 and action[0] == "write" else called + lasts)


actions = st.tuples(st.sampled_from(["write", "read"]), st.integers(0, 2))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.builds(an_operation, actions, st.integers(0, 12), st.integers(0, 9)), max_size=5, unique=True))
def test_it_agrees_with_the_definition(history: list[Operation[Register]]) -> None:
    assert check(history, 0, register).is_linearizable == by_definition(history)


def test_a_search_without_end_is_given_up_and_says_so() -> None:
    history = of(*((("write", number), 0, math.inf) for number in range(12)), (("read", 99), 0, 1))
    with pytest.raises(SearchTooLong):
        check(history, 0, register, most_steps=1_000)


# --- the breaker --------------------------------------------------------------------------------------------------

Story = list[Operation[Action]]


def op(action: Action, called: float, returned: float = math.inf) -> Operation[Action]:
    return Operation(action, called, returned)


def seen(word: str, epoch: int | None, incident: str | None, at: float) -> Seen:
    return Seen(word, epoch, incident, START + round(at * SECOND), between(at, at + 0.1))


def between(called: float, returned: float) -> Between:
    return Between(START + round(called * SECOND), START + round(returned * SECOND))


def story() -> Story:
    """Two clients: initialised, tripped, tripped again, reset, watched, and a trip nobody heard the answer to."""
    told: list[tuple[Call, float]] = [
        (Initialize("init"), 0.0),
        (Trip("trip-1", "incident-1"), 1.0),
        (Trip("trip-2", "incident-2"), 2.0),
        (Reset("reset-1", QUIET, LIMIT), 3.0),
        (EndQuietPeriod("end-1", E + 3), 4.0),
        (Trip("trip-3", "incident-3"), 5.0),
    ]
    held, operations = Held(), Story()
    for call, at in told:
        now = START + round((at + 0.05) * SECOND)
        _, held = apply(held, call, now)
        operations.append(op(Change(call, between(at, at + 0.1), now), at, at + 0.1))
        operations.append(op(seen(held.word, held.epoch, held.incident, at + 0.2), at + 0.2, at + 0.3))
        newest = held.recorded[-1].event_id
        operations.append(op(Agreement(held.word, held.epoch, newest, newest), at + 0.4, at + 0.5))
    operations.append(op(Refusal(Reset("reset-2", QUIET, LIMIT), ("RATE_LIMITED",), between(6.0, 6.1)), 6.0, 6.1))
    operations.append(op(Everything(held.recorded, held.recorded), 9.0, 9.1))
    return operations


def accepted(history: Story) -> bool:
    return check(history, Moment(), step).is_linearizable


def where(history: Story, event_id: str) -> int:
    """The index of the change with this event id."""
    calls = [operation.action.call if isinstance(operation.action, Change) else None for operation in history]
    return next(index for index, call in enumerate(calls) if getattr(call, "event_id", None) == event_id)


def with_action(history: Story, index: int, action: Action) -> Story:
    changed = list(history)
    changed[index] = replace(changed[index], action=action)
    return changed


def with_records(history: Story, records: tuple[Record, ...]) -> Story:
    return with_action(history, len(history) - 1, Everything(records, records))


def final(history: Story) -> tuple[Record, ...]:
    everything = history[-1].action
    assert isinstance(everything, Everything)
    return everything.history


def test_the_story_could_have_happened() -> None:
    assert accepted(story())


def test_overlapping_calls_may_have_happened_in_either_order() -> None:
    for first, second in (("a", "b"), ("b", "a")):
        held = Held()
        for number, event_id in enumerate((first, second)):
            _, held = apply(held, Trip(event_id, f"incident-{event_id}"), START + number)
        history: Story = [
            op(Change(Trip(record.event_id, f"incident-{record.event_id}"), between(0, 1), record.at), 0, 1)
            for record in sorted(held.recorded)
        ]
        history.append(op(Everything(held.recorded, held.recorded), 2, 3))
        assert accepted(history)


def test_a_trip_of_unknown_outcome_may_be_found_later_or_never() -> None:
    done = story()
    unheard = where(done, "trip-3")
    late = list(done)
    late[unheard] = replace(late[unheard], called=4.6, returned=math.inf)
    assert accepted(late)
    never = [operation for operation in done if not 5 < operation.called < 7]
    never[unheard] = op(Change(Trip("trip-3", "incident-3"), between(5, 99)), 5.0)
    assert accepted(with_records(never, final(done)[:-1]))


def test_a_quiet_period_ends_by_itself() -> None:
    held = Held(OPEN, E, recorded=(Record("i", "INITIALIZE", "MISSING", OPEN, E, None, START),))
    for call in (Trip("t", "i"), Reset("r", QUIET, LIMIT)):
        _, held = apply(held, call, START)
    quiet = op(seen(QUIET_PERIOD, held.epoch, "i", 9.9), 9.9, 10.0)
    over = op(seen(OPEN, held.epoch, "i", 10.0), 10.0, 10.1)
    assert check([quiet, over], Moment(held, START), step).is_linearizable
    early = op(seen(OPEN, held.epoch, "i", 9.9), 9.9, 10.0)
    assert not check([early], Moment(held, START), step).is_linearizable
    late = op(seen(QUIET_PERIOD, held.epoch, "i", 10.0), 10.0, 10.1)
    assert not check([late], Moment(held, START), step).is_linearizable


def lost_trip(history: Story) -> Story:
    """The acknowledged second trip is in no record, and the states go on as if it had not been."""
    gone = where(history, "trip-2")
    told = [o for o in history if o is history[gone] or not 2 <= o.called < 3]
    later = [
        replace(o, action=replace(o.action, epoch=o.action.epoch - 1))
        if isinstance(o.action, Seen | Agreement) and o.called > 2 and o.action.epoch
        else o
        for o in told
    ]
    records = [r._replace(epoch=r.epoch - (r.epoch > E + 2)) for r in final(history) if r.event_id != "trip-2"]
    return with_records(later, tuple(records))


def unrecorded_trip(history: Story) -> Story:
    return with_records(history, tuple(record for record in final(history) if record.event_id != "trip-2"))


def reset_undoes_later_trip(history: Story) -> Story:
    """The reset was answered before the trip was asked for, and yet it is the reset that holds."""
    reset, trip = where(history, "reset-1"), where(history, "trip-2")
    changed = list(history)
    changed[reset] = replace(changed[reset], called=1.6, returned=1.7)
    changed[trip] = replace(changed[trip], called=2.0, returned=2.1)
    return changed


def stale_read(history: Story) -> Story:
    return [*history, op(seen(OPEN, E, None, 1.5), 1.5, 1.6)]


def stale_read_after_last_trip(history: Story) -> Story:
    return [*history, op(seen(OPEN, E + 4, "incident-1", 5.5), 5.5, 5.6)]


def epoch_goes_back(history: Story) -> Story:
    return [*history, op(seen(TRIPPED, E + 1, "incident-1", 2.5), 2.5, 2.6)]


def epoch_leaps(history: Story) -> Story:
    records = final(history)
    return with_records(history, (*records[:-1], records[-1]._replace(epoch=records[-1].epoch + 1)))


def two_resets_in_a_minute(history: Story) -> Story:
    held = Held(recorded=final(history))._replace(word=TRIPPED, epoch=final(history)[-1].epoch, incident="incident-3")
    _, held = apply(held, Reset("reset-3", QUIET, LIMIT), START + 7 * SECOND)
    reset = op(Change(Reset("reset-3", QUIET, LIMIT), between(7, 7.1)), 7.0, 7.1)
    return with_records([*history[:-1], reset, history[-1]], held.recorded)


def limit_without_a_reset(history: Story) -> Story:
    """A failed reset has taken the token: the next one, which nothing forbids, is refused."""
    failed = Refusal(Reset("reset-0", QUIET, LIMIT), ("NOT_TRIPPED",), between(0.6, 0.7))
    limited = Refusal(Reset("reset-1", QUIET, LIMIT), ("RATE_LIMITED",), between(2.6, 2.7))
    return [*history, op(failed, 0.6, 0.7), op(limited, 2.6, 2.7)]


def expiry_over_newer_trip(history: Story) -> Story:
    """The watch ends a quiet period that a trip has ended before."""
    end, trip = where(history, "end-1"), where(history, "trip-3")
    changed = list(history)
    changed[trip] = replace(changed[trip], called=3.6, returned=3.7)
    changed[end] = replace(changed[end], called=5.0, returned=5.1)
    return changed


def counted_twice(history: Story) -> Story:
    records = final(history)
    return with_records(history, (*records, records[-1]._replace(epoch=records[-1].epoch + 1)))


def history_lacks_what_outbox_has(history: Story) -> Story:
    everything = Everything(final(history)[:-1], final(history))
    return with_action(history, len(history) - 1, everything)


def state_before_history(history: Story) -> Story:
    """For a moment the state is tripped and its history does not say so."""
    held = Agreement(TRIPPED, E + 1, "init", "init")
    return [*history, op(held, 1.04, 1.06)]


def reset_from_open(history: Story) -> Story:
    return [*history, op(Change(Reset("reset-9", QUIET, 0), between(0.5, 0.6)), 0.5, 0.6)]


def second_trip_takes_over_the_incident(history: Story) -> Story:
    return [*history, op(seen(TRIPPED, E + 2, "incident-2", 2.5), 2.5, 2.6)]


def opened_by_nobody(history: Story) -> Story:
    """A reader found the breaker open before anyone had initialised it."""
    return [*history, op(seen(OPEN, E, None, -1.0), -1.0, -0.9)]


def refused_trip(history: Story) -> Story:
    return [*history, op(Refusal(Trip("trip-9", "x"), ("NOT_TRIPPED",)), 0.5, 0.6)]


def refused_for_no_reason(history: Story) -> Story:
    return [*history, op(Refusal(Reset("reset-9", QUIET, LIMIT), ("NOT_TRIPPED",), between(1.6, 1.7)), 1.6, 1.7)]


def done_before_it_was_asked_for(history: Story) -> Story:
    index = where(history, "trip-3")
    changed = list(history)
    changed[index] = replace(changed[index], called=5.15, returned=5.18)
    action = changed[index].action
    assert isinstance(action, Change)
    return with_action(changed, index, replace(action, between=between(5.15, 5.18)))


def eleventh_error_without_a_trip(history: Story) -> Story:
    errors = [Change(ApiError(str(n), f"x{n}", limit=1), between(0.5, 0.6), outcome="WITHIN") for n in range(2)]
    return [*history, *(op(error, 0.5, 0.6) for error in errors)]


def override_that_nobody_sees(history: Story) -> Story:
    return [*history, op(Change(Override(TRIPPED)), 0.6, 0.7), op(seen(OPEN, E, None, 0.8), 0.8, 0.9)]


MUTATIONS = [
    lost_trip,
    unrecorded_trip,
    reset_undoes_later_trip,
    stale_read,
    stale_read_after_last_trip,
    epoch_goes_back,
    epoch_leaps,
    two_resets_in_a_minute,
    limit_without_a_reset,
    expiry_over_newer_trip,
    counted_twice,
    history_lacks_what_outbox_has,
    state_before_history,
    reset_from_open,
    second_trip_takes_over_the_incident,
    opened_by_nobody,
    refused_trip,
    refused_for_no_reason,
    done_before_it_was_asked_for,
    eleventh_error_without_a_trip,
    override_that_nobody_sees,
]


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_broken_breaker_is_found_out(mutate: Callable[[Story], Story]) -> None:
    assert not accepted(mutate(story()))
