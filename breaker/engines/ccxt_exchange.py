"""Guard one of ccxt's exchanges: every order that it is asked for passes the gate first, and once more at the wire.

The exchange stays the object that it is, of a class derived from its own. While trading is open an order costs two
checks and nothing is read. Cancels always pass.
"""

from __future__ import annotations

import functools
import inspect
import types
import weakref
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from breaker.engines.admission import MAX_AGE
from breaker.engines.ccxt_calls import camel_case
from breaker.engines.ccxt_judging import Judge, attach, judge_of
from breaker.engines.ccxt_methods import wrap_of
from breaker.engines.ccxt_orders import Owner
from breaker.engines.rules_feed import RulesFeed

if TYPE_CHECKING:
    from breaker.gate.gate import Gate
    from breaker.rules import Rules

E = TypeVar("E")


def guard_exchange(
    exchange: E,
    gate: Gate,
    rules: Rules | None = None,
    *,
    account: str | None = None,
    strategy: str | None = None,
    normal_quantity: Callable[[str], Decimal | int | float | str | None] | None = None,
    max_age: float = MAX_AGE,
) -> E:
    """Put the gate in front of all orders of one exchange of ccxt's, of `ccxt`, `ccxt.async_support` or `ccxt.pro`.

    Guarded are `create_order` and all of its kind, `edit_order(s)`, `close_position`, `close_all_positions`, in both
    spellings and with `_ws`, and the exchange's own endpoints for orders (`privatePostOrder`). A refused call raises
    `OrderRefused`, and nothing of it is sent. What is guaranteed, and what isn't: docs/how-to/guard-ccxt.md.

    Args:
        exchange: One account at one exchange. It is changed, and returned.
        gate: Says yes or no.
        rules: Are told of API errors, rejections, messages, latency and, where the exchange says it whole, equity. None
            for none.
        account: As of `OrderIntent`, for all of its orders.
        strategy: As of `OrderIntent`.
        normal_quantity: Gives, by ccxt's symbol, the size of an ordinary day's order in the unit of ccxt's amounts
            (contracts of derivatives); the quiet period allows a fraction of it. Without it, it lets only exits pass.
        max_age: Seconds, at most 10, for which what the account holds is believed while trading is not open.

    Returns:
        The same object.

    Raises:
        ValueError: It is guarded already, or `max_age` makes no sense.

    Example:
        >>> exchange = guard_exchange(ccxt.binanceusdm({"apiKey": "…", "secret": "…"}), gate, rules)
        >>> exchange.create_order("BTC/USDT:USDT", "market", "buy", 0.01)
    """
    client: Any = exchange
    if judge_of(client) is not None:
        raise ValueError(f"this {client.id} is guarded already")
    if not 0 <= max_age <= 10:
        raise ValueError(f"max_age must be 0 to 10 seconds, not {max_age}")
    feed = RulesFeed(rules, client.id)
    owner = Owner(account, strategy, normal_quantity)
    by_await = inspect.iscoroutinefunction(client.__class__.create_order)
    judge = Judge(client, gate, feed, owner, max_age, by_await=by_await, tells=rules is not None)
    own = {name: found for name, found in vars(client).items() if callable(found) and wrap_of(name, by_await=by_await)}
    client.__class__ = guarded_class(client.__class__, by_await=by_await)
    for name, found in own.items():  # methods that somebody has put on this one object
        wrap = wrap_of(name, by_await=by_await)
        assert wrap is not None  # noqa: S101 - or it would not be among them
        setattr(client, name, types.MethodType(wrap(name, _as_method(found)), client))
    attach(client, judge)
    weakref.finalize(client, feed.close)
    return exchange


@functools.cache
def guarded_class(kind: Any, *, by_await: bool) -> type:
    """A class derived from the exchange's, of the same name.

    Args:
        kind: The exchange's in ccxt, or one derived from it.
        by_await: Whether its methods are awaited.
    """
    wrapped: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    for name in dir(kind):
        method = inspect.getattr_static(kind, name)
        wrap = wrap_of(name, by_await=by_await) if inspect.isfunction(method) else None
        if wrap is not None:
            wrapped[name] = wrap(name, method)
    # ccxt makes its other spelling of each name when it makes the first object of a class.
    aliases = {camel_case(name): method for name, method in wrapped.items() if not name.startswith("_")}
    return type(kind.__name__, (kind,), {**aliases, **wrapped})


def _as_method(found: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(found):

        @functools.wraps(found)
        async def awaited_method(_: Any, /, *args: Any, **kwargs: Any) -> Any:
            return await found(*args, **kwargs)

        return awaited_method

    @functools.wraps(found)
    def method(_: Any, /, *args: Any, **kwargs: Any) -> Any:
        return found(*args, **kwargs)

    return method
