"""Whether a history of concurrent operations could have happened one at a time (Wing and Gong, 1993; Lowe, 2017).

An order is sought in which each operation takes effect once, at one moment between its call and its return, and in
which each got the answer that the sequential specification gives. Depth first; a set of operations that has led to a
state is not tried again, whatever their order was.

An operation that nobody heard the answer to may have taken effect at any moment after its call, or never.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

State = TypeVar("State", bound=Hashable)
Action = TypeVar("Action")


@dataclass(frozen=True, slots=True)
class Operation(Generic[Action]):
    """What one client asked for, with what it was told. Times are seconds on one monotonic clock."""

    action: Action
    called: float
    returned: float = math.inf
    """`math.inf` if the outcome is not known."""
    after: int | None = None
    """The index of an operation of the same history that this one comes after, although their times overlap."""

    @property
    def must_happen(self) -> bool:
        return self.returned < math.inf


@dataclass(frozen=True, slots=True)
class Verdict:
    order: tuple[int, ...] | None
    """One order in which it could have happened; None if there is none."""
    longest: tuple[int, ...]
    """The longest beginning of an order that was found: what follows it is where to look."""
    tried: int
    """Steps that the search took."""

    @property
    def is_linearizable(self) -> bool:
        return self.order is not None


class SearchTooLong(Exception):
    """The history has more orders than the search may try, so nothing is known of it."""


def check(
    history: Sequence[Operation[Action]],
    start: State,
    step: Callable[[State, Action], Iterable[State]],
    *,
    most_steps: int = 2_000_000,
) -> Verdict:
    """`step` gives the states that an action may lead to, none if it can't have had its answer in that state.

    Raises SearchTooLong.
    """
    by_call = sorted(range(len(history)), key=lambda index: history[index].called)
    must = sum(1 << index for index, operation in enumerate(history) if operation.must_happen)
    seen: set[tuple[int, State]] = {(0, start)}
    stack: list[tuple[int, State, tuple[int, ...]]] = [(0, start, ())]
    longest: tuple[int, ...] = ()
    tried = 0
    while stack:
        done, state, order = stack.pop()
        if done & must == must:
            return Verdict(order, order, tried)
        for index in reversed(_next(history, by_call, done)):
            for following in step(state, history[index].action):
                tried += 1
                if tried > most_steps:
                    raise SearchTooLong(f"{len(history)} operations, {most_steps} steps, and no end")
                reached = done | 1 << index, following
                if reached not in seen:
                    seen.add(reached)
                    stack.append((*reached, (*order, index)))
                    longest = max(longest, stack[-1][2], key=len)
    return Verdict(None, longest, tried)


def _next(history: Sequence[Operation[Action]], by_call: Sequence[int], done: int) -> list[int]:
    """The operations that may come next: those called before any other that is not done yet has returned.

    Those known to have happened come first, because most unknown ones had no effect that anyone saw.
    """
    waiting = [index for index in by_call if not done >> index & 1]
    first_return = min((history[index].returned for index in waiting), default=math.inf)
    free = [
        index for index in waiting if history[index].called <= first_return and _is_released(history[index].after, done)
    ]
    return sorted(free, key=lambda index: history[index].returned)


def _is_released(after: int | None, done: int) -> bool:
    return after is None or bool(done >> after & 1)
