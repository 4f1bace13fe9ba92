"""Put the gate in front of a function or a block, synchronous or not: `gate.guard`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from breaker.gate.decision import OrderRefused, Permit

if TYPE_CHECKING:
    from breaker.gate.decision import Decision

P = ParamSpec("P")
R = TypeVar("R")


class Check(Protocol):
    """`Gate.check`."""

    def __call__(self, order: Any = None, position: Any = None, working: Iterable[Any] = ()) -> Decision: ...


class GuardedBlock:
    """A block that is entered only if the gate allows the order; entering gives the permit, or raises OrderRefused."""

    def __init__(self, check: Check, order: Any, position: Any, working: Iterable[Any]) -> None:
        self._check = check
        self._order = order
        self._position = position
        self._working = working

    def __enter__(self) -> Permit:
        decision = self._check(self._order, self._position, self._working)
        if not decision or decision.permit is None:
            raise OrderRefused(decision)
        return decision.permit

    def __exit__(self, *failure: object) -> None: ...

    async def __aenter__(self) -> Permit:
        return self.__enter__()

    async def __aexit__(self, *failure: object) -> None: ...


def guarded(check: Check, submit: Callable[P, R], position_of: Callable[[Any], Any] | None) -> Callable[P, R]:
    """`submit`, called only when `check` allows the order that it is given; OrderRefused otherwise.

    The order is the parameter named `order`, else the first one that is not `self`. The position is what
    `position_of(order)` returns, else the parameter named `position`; the working orders are the one named `working`.
    Raises TypeError at once for a function without parameters.
    """
    signature = inspect.signature(submit)
    names = [name for name in signature.parameters if name != "self"]
    if not names:
        raise TypeError(f"{submit!r} takes no order, so there is nothing to guard")
    order_name = "order" if "order" in names else names[0]

    def admit(*args: Any, **kwargs: Any) -> None:
        given = signature.bind(*args, **kwargs).arguments
        order = given.get(order_name)
        position = position_of(order) if position_of is not None else given.get("position")
        decision = check(order, position, given.get("working", ()))
        if not decision:
            raise OrderRefused(decision)

    if inspect.iscoroutinefunction(submit):

        @functools.wraps(submit)
        async def submit_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            admit(*args, **kwargs)
            return await submit(*args, **kwargs)

        return submit_async  # type: ignore[return-value]  # a coroutine function again, as `submit` is one

    @functools.wraps(submit)
    def submit_sync(*args: P.args, **kwargs: P.kwargs) -> R:
        admit(*args, **kwargs)
        return submit(*args, **kwargs)

    return submit_sync
