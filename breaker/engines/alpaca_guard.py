"""Judge one Alpaca account's requests, and tell the rules what became of them, for its client and its stream."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any
from urllib.parse import unquote

from alpaca.common.exceptions import APIError, RetryException

from breaker.engines.admission import Admission
from breaker.engines.alpaca_call import AccountBook, Call, Calls, Listed, book_of
from breaker.engines.alpaca_orders import (
    NotUnderstood,
    Sender,
    close,
    close_all,
    exercise,
    is_plain,
    new_order,
    read_orders,
    read_positions,
    replacement,
)
from breaker.engines.rules_feed import RulesFeed
from breaker.gate.decision import Decision, OrderRefused, Reason
from breaker.gate.gate import Gate

_log = logging.getLogger(__name__)
PAGE = 500
"""The largest page of orders that Alpaca serves."""
_MOST_PAGES = 20
_FAILURES = frozenset({401, 408, 429})
"""Statuses below 500 that say that the venue did not work, and nothing of the request."""
Get = Callable[[str, Mapping[str, str]], Any]


class MustBeJudgedAnew(Exception):
    """A request that may not be sent on the permit that it has; nothing of it has left."""


class AlpacaGuard:
    """One account's gate, rules, and requests on their way. May be used from any thread.

    `get` reads a path of the account's, once and within a time limit.
    """

    def __init__(self, gate: Gate, feed: RulesFeed, sender: Sender, get: Get, max_age: float) -> None:
        self.feed = feed
        self._gate = gate
        self._sender = sender
        self._get = get
        self._admission = Admission(gate, self._read_book, max_age=max_age)
        self._calls = Calls()

    def call(self, method: str, path: str, data: Any) -> Call | None:
        """The request, if it is one to be judged. Raises `OrderRefused` where it can't be understood."""
        if method == "POST" and path == "/orders" and type(data) is dict and is_plain(data):
            make, name = partial(new_order, data, self._sender), data.get("client_order_id") or ""
            return Call("submit_order", self._sender, make=make, name=name)
        try:
            return self._call(method.upper(), path, {} if data is None else data)
        except (NotUnderstood, AttributeError) as error:
            why = error if isinstance(error, NotUnderstood) else f"its data are {data!r:.60}"
            sentence = f"The order was refused, because {why}; nothing was sent."
            raise OrderRefused(Decision(False, Reason.INVALID_ORDER, sentence)) from error

    def _call(self, method: str, path: str, data: Mapping[str, Any]) -> Call | None:
        parts = [unquote(part) for part in path.partition("?")[0].split("/") if part]
        of = "/".join(parts[1:])
        match method, parts:
            case "POST", ["orders"]:
                intent = new_order(data, self._sender)
                return Call("submit_order", self._sender, intent=intent, name=data.get("client_order_id") or "")
            case "PATCH", ["orders", _]:
                name = data.get("client_order_id") or ""
                return Call(
                    "replace_order_by_id", self._sender, intent_of=partial(self._replacement, of, data), name=name
                )
            case "POST", ["positions", *_, "exercise"]:
                intent = exercise(of.removesuffix("/exercise"), self._sender)
                return Call("exercise_options_position", self._sender, intent=intent)
            case "DELETE", ["positions"]:
                first = bool(data.get("cancel_orders"))
                return Call("close_all_positions", self._sender, intent_of=partial(self._close_all, first), alone=first)
            case "DELETE", ["positions", *_]:
                return Call("close_position", self._sender, intent_of=partial(self._close, of, data))
        return None

    def _replacement(self, order_id: str, data: Mapping[str, Any], listed: Listed | None) -> Any:
        return replacement(order_id, data, listed.orders if listed else (), self._sender)

    def _close(self, of: str, data: Mapping[str, Any], listed: Listed | None) -> Any:
        return close(of, data, listed.positions if listed else (), self._sender)

    def _close_all(self, cancel_orders: bool, listed: Listed | None) -> Any:
        return close_all(cancel_orders=cancel_orders, positions=listed.positions if listed else (), sender=self._sender)

    # A request on its way

    def admit(self, call: Call) -> None:
        """Raises `OrderRefused`."""
        call.permit = self._admission.admit(call)
        self._calls.begin(call)

    def leave(self, call: Call) -> None:
        """It is about to be sent. Raises `MustBeJudgedAnew` where it may not be as it was admitted."""
        permit = call.permit
        if permit is None or not self._admission.stands(permit, call):
            raise MustBeJudgedAnew
        call.left = True
        call.sent_at = time.monotonic()
        self.feed.order_sent(call.what)

    def admit_anew(self, call: Call) -> None:
        """Raises `OrderRefused`. Nothing of this attempt has left."""
        call.permit = self._admission.admit(call)

    def heard(self, call: Call | None, begun: float, status: int | None) -> None:
        """One attempt was answered with a status; None where even that can't be read."""
        now = time.monotonic()
        self.feed.latency(now - max(begun, call.sent_at if call else 0.0))
        if status == 200:
            self.feed.call_succeeded()
            return
        failed = status is None or status >= 500 or status in _FAILURES
        (self.feed.call_failed if failed else self.feed.call_succeeded)()
        if call is not None and status is not None and 400 <= status < 500 and status != 408:
            call.left = False
        elif call is not None and failed:
            call.uncertain = True

    def unanswered(self, call: Call | None) -> None:
        """One attempt had no answer."""
        self.feed.call_failed()
        if call is not None and call.left:
            call.uncertain = True

    def taken(self, call: Call, answer: Any) -> None:
        """The venue has taken it."""
        self._calls.end(call)
        self.feed.order_accepted()
        if call.permit is not None:
            self._admission.answered(call.permit)
        self.changed()
        if type(answer) is list:  # closes of several, each with its own status
            for item in answer:
                if isinstance(item, dict) and (item.get("status") or 0) >= 400:
                    self.feed.order_rejected(_why(item.get("body")))

    def not_taken(self, call: Call, error: BaseException) -> None:
        """It ended with an error. What may be at the venue all the same goes on counting for a while."""
        if call.uncertain or call.left:
            self._calls.lose(call)
            return
        self.over(call)
        if isinstance(error, APIError) and status_of(error) not in _FAILURES:
            self.feed.order_rejected(_why(_object(str(error))))

    def over(self, call: Call) -> None:
        """Nothing of it can fill."""
        self._calls.end(call)
        if call.permit is not None:
            self._admission.not_sent(call.permit)

    def changed(self) -> None:
        """The account is not any more what it was when it was read."""
        if not self._gate.is_open:
            self._admission.forget()

    def equity(self, account: Any) -> None:
        """The client has read the account."""
        try:
            self.feed.equity(Decimal(account["equity"]), currency=account.get("currency"))
        except (KeyError, TypeError, AttributeError, InvalidOperation) as error:
            _log.warning("The equity can't be told to the rules: the account has none that can be read (%r).", error)

    # Reading

    def _read_book(self) -> AccountBook:
        """What is on its way is looked at first, then orders are listed, then positions: nothing is left out."""
        leaving = [call for call in self._calls.all() if call.counts]
        orders = list(read_orders(self._open_orders()))
        return book_of(Listed(read_positions(self._get("/positions", {})), orders), leaving)

    def _open_orders(self) -> list[Any]:
        """Oldest first; each page starts at the end of the last one, as orders may share a time stamp."""
        found: dict[Any, Any] = {}
        params = {"status": "open", "limit": str(PAGE), "direction": "asc"}
        for _ in range(_MOST_PAGES):
            page = self._get("/orders", params)
            known = len(found)
            found.update((item["id"], item) for item in page)
            if len(page) < PAGE:
                return list(found.values())
            if len(found) == known:
                break
            params["after"] = page[-2]["submitted_at"]
        raise NotUnderstood(f"the venue lists more open orders than can be read ({len(found)} and more)")


def status_of(error: BaseException) -> int | None:
    """Of an answer that the SDK raises as an error; None where it can't be told."""
    if isinstance(error, RetryException):  # made while the answer's own error was being handled
        return getattr(getattr(error.__context__, "response", None), "status_code", None)
    return error.status_code if isinstance(error, APIError) else None


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"message": text}


def _why(body: Any) -> str:
    return str(body.get("message") or body) if isinstance(body, dict) else str(body)
