"""Guard alpaca-py's `TradingClient`: the same client, whose orders the gate judges.

The SDK opens connections without a time limit, and waits seconds before it tries again what was answered with 429 or
504. So an order is judged when it is asked for, and asked about again on the open connection, at each attempt.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from alpaca.common.exceptions import APIError, RetryException
from alpaca.trading.client import TradingClient
from requests import RequestException

from breaker.engines.alpaca_call import Call
from breaker.engines.alpaca_guard import AlpacaGuard, MustBeJudgedAnew, status_of
from breaker.engines.alpaca_orders import Sender
from breaker.engines.requests_socket import ask_at_socket, this_thread
from breaker.engines.rules_feed import RulesFeed

if TYPE_CHECKING:
    from breaker.gate.gate import Gate
    from breaker.rules import Rules

_log = logging.getLogger(__name__)
NormalQuantity = Callable[[str], Any] | Mapping[str, Any]


class _ThisThread(threading.local):
    call: Call | None = None


_current = _ThisThread()
"""The request of this thread's that is being sent and was admitted."""


class GuardedTradingClient(TradingClient):
    """An alpaca-py `TradingClient` whose orders pass the gate; all else of it is as it was.

    It is an instance of the client's own class too. `submit_order`, `replace_order_by_id`, `close_position`,
    `close_all_positions` and `exercise_options_position` raise `OrderRefused` where the gate says no, and so do
    requests to the same paths by `post`, `patch` and `delete`. Cancels always pass. While trading is open nothing is
    read; otherwise open orders and positions are, in two requests, and believed for `max_age`. An order without a
    client order id is given one, so that what the SDK tries again is not taken twice.

    Args:
        client: Its connections, keys and settings are taken over as they are now.
        gate: Judges.
        rules: Are told of errors, latency, rejections and equity; a `RulesFeed` where several guards share one.
        account: Of which account's breaker its orders are; of every one that the gate watches unless given.
        strategy: Of which strategy's breaker its orders are; as for `account`.
        normal_quantity: An order's normal size by its symbol, for the quiet period: a function, or a mapping in which
            `"*"` stands for any other symbol. Unless given, the gate's own.
        max_age: Seconds, at most 10, for which what the account holds is believed.
        timeout: Seconds that each request of a reading may wait for the venue.

    Raises:
        ValueError: `max_age` or `timeout` makes no sense.
        TypeError: the client is no `TradingClient`, is guarded already, or is of an SDK that sends in another way.

    Example:
        >>> client = GuardedTradingClient(TradingClient("key", "secret", url_override=url), gate)
        >>> isinstance(client, TradingClient)
        True
    """

    _breaker: AlpacaGuard

    def __new__(cls, client: TradingClient, *args: Any, **kwargs: Any) -> GuardedTradingClient:
        """Of a subclass of `TradingClient` the guarded one is an instance too."""
        kind = type(client)
        if not isinstance(client, TradingClient) or isinstance(client, GuardedTradingClient):
            raise TypeError(f"only a TradingClient that is not guarded yet can be guarded, not a {kind.__name__}")
        if not hasattr(client, "_request") or not hasattr(client, "_one_request"):
            raise TypeError("this alpaca-py sends requests in a way that the guard does not know, so it guards nothing")
        made: GuardedTradingClient = object.__new__(_guarded_kind(cls, kind))
        return made

    def __init__(
        self,
        client: TradingClient,
        gate: Gate,
        rules: Rules | RulesFeed | None = None,
        *,
        account: str | None = None,
        strategy: str | None = None,
        normal_quantity: NormalQuantity | None = None,
        max_age: float = 1.0,
        timeout: float = 2.0,
    ) -> None:
        if not 0 < timeout <= 60:
            raise ValueError(f"timeout must be more than 0 and at most 60 seconds, not {timeout}")
        vars(self).update(vars(client))
        feed = rules if isinstance(rules, RulesFeed) else RulesFeed(rules, "alpaca")
        sender = Sender(account, strategy, _normal_quantity(normal_quantity))
        get = partial(_get, weakref.ref(self), timeout)
        self._breaker = AlpacaGuard(gate, feed, sender, get, max_age)
        self._breaker_prefix = secrets.token_hex(8) + "-"
        self._breaker_numbers = itertools.count(1)
        if feed is not rules:
            weakref.finalize(self, feed.close)

    def _request(
        self, method: str, path: str, data: Any = None, base_url: Any = None, api_version: str | None = None
    ) -> Any:
        guard = self._breaker
        if method == "GET":
            answer = super()._request(method, path, data, base_url, api_version)
            if path == "/account":
                guard.equity(answer)
            return answer
        if method == "POST" and path == "/orders" and type(data) is dict and not data.get("client_order_id"):
            data = {**data, "client_order_id": f"{self._breaker_prefix}{next(self._breaker_numbers)}"}
        call = guard.call(method, path, data)
        if call is None:
            return self._send_unjudged(method, path, data, base_url, api_version)
        guard.admit(call)
        before, _current.call = (_current.call, this_thread.ask), call  # a signal's handler may send while we wait
        try:
            answer = super()._request(method, path, data, base_url, api_version)
        except BaseException as error:
            guard.not_taken(call, error)
            raise
        finally:
            _current.call, this_thread.ask = before
        guard.taken(call, answer)
        return answer

    def _one_request(self, method: str, url: str, opts: Any, retry: int) -> Any:
        """One attempt of several, between which the SDK waits."""
        guard, call, begun = self._breaker, _current.call, time.monotonic()
        leave = None if call is None else partial(guard.leave, call)
        while True:
            try:
                if call is not None and leave is not None:
                    call.left = False
                    if ask_at_socket(self._session.get_adapter(url)):
                        this_thread.ask = leave
                    else:
                        leave()
                answer = super()._one_request(method, url, opts, retry)
            except MustBeJudgedAnew:
                this_thread.ask = None  # what is read now is no order
                if call is not None:
                    guard.admit_anew(call)
            except (RetryException, APIError) as error:
                guard.heard(call, begun, status_of(error))
                raise
            except RequestException:
                guard.unanswered(call)
                raise
            else:
                guard.heard(call, begun, 200)
                return answer

    def _send_unjudged(self, method: str, path: str, data: Any, base_url: Any, api_version: str | None) -> Any:
        """A cancel, or what has nothing to do with orders."""
        is_cancel = method == "DELETE" and path.startswith("/orders")
        if is_cancel:
            self._breaker.feed.order_sent("cancel")
        try:
            return super()._request(method, path, data, base_url, api_version)
        finally:
            if is_cancel:
                self._breaker.changed()


@cache
def _guarded_kind(guarded: type[Any], kind: type[Any]) -> type[Any]:
    return guarded if issubclass(guarded, kind) else type(guarded.__name__, (guarded, kind), {})


def _get(client_of: weakref.ref[GuardedTradingClient], timeout: float, path: str, params: Mapping[str, str]) -> Any:
    """Read a path of the account's: once, where the SDK tries again for as long as it takes."""
    client = client_of()
    if client is None:
        raise RuntimeError("the guarded client is gone")
    guard, begun = client._breaker, time.monotonic()
    url = f"{getattr(client._base_url, 'value', client._base_url)}/{client._api_version}{path}"
    try:
        answer = client._session.get(
            url, params=params, headers=client._get_default_headers(), timeout=timeout, allow_redirects=False
        )
        guard.heard(None, begun, answer.status_code)
        answer.raise_for_status()
        return answer.json()
    except RequestException as error:
        if error.response is None:
            guard.unanswered(None)
        raise


def _normal_quantity(given: NormalQuantity | None) -> Callable[[str], Any]:
    """Never raises: an exit is not to be lost for what matters in the quiet period alone."""
    if given is None:
        return lambda symbol: None
    if isinstance(given, Mapping):
        sizes = given
        return lambda symbol: sizes.get(symbol, sizes.get("*"))
    ask = given

    def told(symbol: str) -> Any:
        try:
            return ask(symbol)
        except Exception:
            _log.exception("The normal quantity of %s is not known; in a quiet period its orders are refused.", symbol)
            return None

    return told
