"""Follow one call of an engine's from the first check to the exchange's answer, through whatever ccxt does meanwhile.

What has to be done blocking and awaited alike is written once, as steps that a driver carries out (`blocking`,
`awaited`).
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from breaker.engines.ccxt_book import Steps
from breaker.engines.ccxt_calls import Endpoint
from breaker.gate.decision import Permit

T = TypeVar("T")
RAW = "a request of the exchange's own"
"""In place of a method's name: what was sent past ccxt's methods for orders."""


@dataclass(slots=True)
class Part:
    """One order of a call: what was asked of the gate for it, and what it said. `earlier` are of attempts before."""

    intent: Any
    admission: Any
    permit: Permit | None = None
    earlier: list[Permit] = field(default_factory=list)


class Call:
    """One call of an engine's, from the first check to the exchange's answer.

    Args:
        judge: Whose it is.
        name: The method's.
        names: Of the method's parameters.
        args: What is given by place.
        kwargs: What is given by name.
        task: The asyncio task that it was made in.
        permit: As long as trading is open.
    """

    parts: list[Part] | None = None
    """Once trading is not open: its orders."""
    request: Endpoint | None = None
    """Which is under way; `attempts` is how often it was sent: ccxt may send it again."""
    attempts: int = 0
    sent: bool = False
    """Whether any request of it was."""
    message: str = ""
    """Under which ccxt awaits the answer of what is sent by WebSocket."""
    over: bool = False

    def __init__(
        self,
        judge: Any,
        name: str,
        names: Sequence[str],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        task: Any,
        permit: Permit | None,
    ) -> None:
        self.judge = judge
        self.name = name
        self.names = names
        self.args = args
        self.kwargs = kwargs
        self.task = task
        self.permit = permit

    @property
    def given(self) -> dict[str, Any]:
        """Its arguments by name."""
        return {**dict(zip(self.names, self.args, strict=False)), **self.kwargs}


current: ContextVar[Call | None] = ContextVar("breaker_ccxt_call", default=None)
"""The call that this code runs within. Tasks that ccxt starts within one, and keeps, have it too: see `Call.over`."""


def blocking(steps: Steps[T]) -> T:
    """Carry the steps out, each outside of the call that they belong to: a reading is no order."""
    token = current.set(None)
    try:
        step = next(steps)
        while True:
            try:
                done = step()
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(done)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        current.reset(token)


async def awaited(steps: Steps[T]) -> T:
    """`blocking`, for steps whose calls are to be awaited."""
    token = current.set(None)
    try:
        step = next(steps)
        while True:
            try:
                done = step()
                if inspect.isawaitable(done):
                    done = await done
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(done)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        current.reset(token)


def this_task() -> Any:
    """The asyncio task that this runs in; without one, its thread."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return threading.get_ident()
