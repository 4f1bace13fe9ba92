"""Put the gate around the methods of ccxt's exchanges: those for orders, and those by which requests leave.

Each exists twice, for the exchanges whose methods are awaited and for the others.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from breaker.engines.ccxt_call import RAW, Call, awaited, blocking, current
from breaker.engines.ccxt_calls import cancels_orders, places_orders
from breaker.engines.ccxt_judging import Judge, judge_of
from breaker.engines.ccxt_telling import is_api_error, is_refusal, is_turned_away, tell_equity
from breaker.gate.decision import OrderRefused

Wrap: TypeAlias = Callable[[str, Any], Any]
"""By a method's name and the method itself, what takes its place."""


def wrap_of(name: str, *, by_await: bool) -> Wrap | None:
    """What is put around a method of this name; None where nothing is."""
    if name in _BENEATH:
        return _BENEATH[name][by_await]
    if places_orders(name):
        return placing_async_method if by_await else placing_method
    return cancelling_method if cancels_orders(name) else None


def _names(method: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(method).parameters if name != "self")


def placing_method(name: str, original: Any) -> Any:
    names = _names(original)

    @functools.wraps(original)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        judge = self._breaker_judge
        if judge is None or (current.get() is not None and judge.within()):
            return original(self, *args, **kwargs)
        call = judge.begun(name, names, args, kwargs)
        if call.permit is None:
            blocking(judge.admit(call))
        token = current.set(call)
        try:
            answer = original(self, *args, **kwargs)
        except BaseException as error:
            _failed(judge, call, error)
            raise
        finally:
            call.over = True
            current.reset(token)
        judge.on_their_way.pop(call, None)
        if call.parts is not None or judge.tells:
            judge.answered(call, answer)
        return answer

    return guarded


def placing_async_method(name: str, original: Any) -> Any:
    if not inspect.iscoroutinefunction(original):
        return original  # which sends nothing: it makes up a request, or an id
    names = _names(original)

    @functools.wraps(original)
    async def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        judge = self._breaker_judge
        if judge is None or (current.get() is not None and judge.within()):
            return await original(self, *args, **kwargs)
        call = judge.begun(name, names, args, kwargs)
        if call.permit is None:
            await awaited(judge.admit(call))
        token = current.set(call)
        try:
            answer = await original(self, *args, **kwargs)
        except BaseException as error:
            _failed(judge, call, error)
            raise
        finally:
            call.over = True
            current.reset(token)
        judge.on_their_way.pop(call, None)
        if call.parts is not None or judge.tells:
            judge.answered(call, answer)
        return answer

    return guarded


def cancelling_method(name: str, original: Any) -> Any:
    """Only counted as a message."""
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def counted_async(self: Any, *args: Any, **kwargs: Any) -> Any:
            _count_message(self, name)
            return await original(self, *args, **kwargs)

        return counted_async

    @functools.wraps(original)
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        _count_message(self, name)
        return original(self, *args, **kwargs)

    return counted


def _count_message(client: Any, name: str) -> None:
    judge = judge_of(client)
    if judge is not None and not judge.within():
        judge.feed.order_sent(name)


def _failed(judge: Judge, call: Call, error: BaseException) -> None:
    """Whether anything of the call can still fill is told by ccxt's class: a refusal, or no answer that tells it."""
    if isinstance(error, OrderRefused):
        judge.unanswered(call)  # of it, at most an earlier attempt was sent
        return
    refused = is_refusal(error)
    if not call.sent:
        judge.not_sent(call)
    elif refused or is_turned_away(error):
        judge.refused(call)
    else:
        judge.unanswered(call)
    if call.sent and refused:
        judge.feed.order_rejected(f"{type(error).__name__}: {error}")


def fetch_method(_: str, original: Any) -> Any:
    @functools.wraps(original)
    def fetch(self: Any, url: Any, method: Any = "GET", headers: Any = None, body: Any = None) -> Any:
        judge = self._breaker_judge
        if judge is None:
            return original(self, url, method, headers, body)
        if self.session is not judge.session:
            judge.watch_session(self.session)
        call = current.get()
        if call is not None and call.judge is judge and not call.over:
            if call.attempts or not judge.stands(call):
                blocking(judge.confirm(call, again=judge.repeats(call)))
            judge.leaves(call)
        if not judge.tells:
            return original(self, url, method, headers, body)
        begun = time.monotonic()
        try:
            answer = original(self, url, method, headers, body)
        except Exception as error:
            _tell_failure(judge, error)
            raise
        _tell_success(judge, begun)
        return answer

    return fetch


def fetch_async_method(_: str, original: Any) -> Any:
    @functools.wraps(original)
    async def fetch(self: Any, url: Any, method: Any = "GET", headers: Any = None, body: Any = None) -> Any:
        judge = self._breaker_judge
        if judge is None:
            return await original(self, url, method, headers, body)
        call = current.get()
        if call is not None and call.judge is judge and not call.over:
            if call.attempts or not judge.stands(call):
                await awaited(judge.confirm(call, again=judge.repeats(call)))
            judge.leaves(call)
        if not judge.tells:
            return await original(self, url, method, headers, body)
        begun = time.monotonic()
        try:
            answer = await original(self, url, method, headers, body)
        except Exception as error:
            _tell_failure(judge, error)
            raise
        _tell_success(judge, begun)
        return answer

    return fetch


def fetch2_method(_: str, original: Any) -> Any:
    """ccxt waits for its rate limit in here, and repeats; each time it goes through `fetch`."""

    @functools.wraps(original)
    def fetch2(self: Any, path: str, api: Any = "public", method: str = "GET", *more: Any, **named: Any) -> Any:
        judge = self._breaker_judge
        if judge is None:
            return original(self, path, api, method, *more, **named)
        call = current.get()
        if call is not None and call.judge is judge and not call.over:
            call.request, call.attempts = (path, api, method), 0
            return original(self, path, api, method, *more, **named)
        if not judge.sends_orders(path, api, method):
            return original(self, path, api, method, *more, **named)
        raw = judge.begun(RAW, (), (), {})
        if raw.permit is None:
            blocking(judge.admit(raw))
        token = current.set(raw)
        try:
            answer = original(self, path, api, method, *more, **named)
        except BaseException as error:
            _failed(judge, raw, error)
            raise
        finally:
            raw.over = True
            current.reset(token)
        judge.arrived(raw)
        return answer

    return fetch2


def fetch2_async_method(_: str, original: Any) -> Any:
    @functools.wraps(original)
    async def fetch2(self: Any, path: str, api: Any = "public", method: str = "GET", *more: Any, **named: Any) -> Any:
        judge = self._breaker_judge
        if judge is None:
            return await original(self, path, api, method, *more, **named)
        call = current.get()
        if call is not None and call.judge is judge and not call.over:
            call.request, call.attempts = (path, api, method), 0
            return await original(self, path, api, method, *more, **named)
        if not judge.sends_orders(path, api, method):
            return await original(self, path, api, method, *more, **named)
        raw = judge.begun(RAW, (), (), {})
        if raw.permit is None:
            await awaited(judge.admit(raw))
        token = current.set(raw)
        try:
            answer = await original(self, path, api, method, *more, **named)
        except BaseException as error:
            _failed(judge, raw, error)
            raise
        finally:
            raw.over = True
            current.reset(token)
        judge.arrived(raw)
        return answer

    return fetch2


def load_markets_method(_: str, original: Any) -> Any:
    """Not part of the call that needs them first: others wait for the same answer."""

    @functools.wraps(original)
    def load_markets(self: Any, *args: Any, **kwargs: Any) -> Any:
        token = current.set(None)
        try:
            return original(self, *args, **kwargs)
        finally:
            current.reset(token)

    return load_markets


def load_markets_async_method(_: str, original: Any) -> Any:
    @functools.wraps(original)
    async def load_markets(self: Any, *args: Any, **kwargs: Any) -> Any:
        token = current.set(None)
        try:
            return await original(self, *args, **kwargs)
        finally:
            current.reset(token)

    return load_markets


def fetch_balance_method(_: str, original: Any) -> Any:
    @functools.wraps(original)
    def fetch_balance(self: Any, *args: Any, **kwargs: Any) -> Any:
        balance = original(self, *args, **kwargs)
        _tell_equity(self, balance)
        return balance

    return fetch_balance


def fetch_balance_async_method(_: str, original: Any) -> Any:
    @functools.wraps(original)
    async def fetch_balance(self: Any, *args: Any, **kwargs: Any) -> Any:
        balance = await original(self, *args, **kwargs)
        _tell_equity(self, balance)
        return balance

    return fetch_balance


def open_method(_: str, original: Any) -> Any:
    """Where `ccxt.async_support` makes its session, which it does anew after `close`."""

    @functools.wraps(original)
    def open_(self: Any, *args: Any, **kwargs: Any) -> Any:
        opened = original(self, *args, **kwargs)
        judge = judge_of(self)
        if judge is not None and self.session is not None:
            judge.watch_session(self.session)
        return opened

    return open_


def client_method(_: str, original: Any) -> Any:
    """A connection of `ccxt.pro`, by which orders are sent with `create_order_ws` and its kind."""

    @functools.wraps(original)
    def client(self: Any, *args: Any, **kwargs: Any) -> Any:
        connection = original(self, *args, **kwargs)
        judge = judge_of(self)
        if judge is not None and not hasattr(connection, _GUARDED):
            setattr(connection, _GUARDED, True)
            connection.send = _sending(judge, connection)
        return connection

    return client


def watch_method(_: str, original: Any) -> Any:
    """What is sent is remembered with what its answer is awaited under, so that a refusal reaches nobody else."""

    @functools.wraps(original)
    def watch(self: Any, url: Any, message_hash: Any, *args: Any, **kwargs: Any) -> Any:
        judge = judge_of(self)
        call = None if judge is None else judge.call_at_wire()
        if call is not None:
            call.message = message_hash
        return original(self, url, message_hash, *args, **kwargs)

    return watch


def _sending(judge: Judge, connection: Any) -> Callable[[Any], Any]:
    original = connection.send

    async def send(message: Any) -> Any:
        call = judge.call_at_wire()
        if call is not None:
            try:
                if not judge.stands(call):
                    await awaited(judge.confirm(call))
            except OrderRefused as refused:
                connection.reject(refused, call.message)
                return None
            judge.leaves(call)
        return await original(message)

    return send


def _tell_equity(client: Any, balance: Any) -> None:
    judge = judge_of(client)
    if judge is not None:
        tell_equity(judge.feed, client.id, balance)


def _tell_success(judge: Judge, begun: float) -> None:
    judge.feed.call_succeeded()
    judge.feed.latency(time.monotonic() - begun)


def _tell_failure(judge: Judge, error: Exception) -> None:
    if is_api_error(error):
        judge.feed.call_failed()
    elif is_refusal(error):
        judge.feed.call_succeeded()  # it has answered


_GUARDED: Final = "_breaker_guarded"
_BENEATH: Final[Mapping[str, tuple[Wrap, Wrap]]] = {
    "fetch": (fetch_method, fetch_async_method),
    "fetch2": (fetch2_method, fetch2_async_method),
    **dict.fromkeys(("load_markets", "loadMarkets"), (load_markets_method, load_markets_async_method)),
    **dict.fromkeys(("fetch_balance", "fetchBalance"), (fetch_balance_method, fetch_balance_async_method)),
    "open": (open_method, open_method),
    "client": (client_method, client_method),
    "watch": (watch_method, watch_method),
}
"""By name, for the blocking exchanges and for the awaited ones."""
