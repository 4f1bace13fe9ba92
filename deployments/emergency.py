#!/usr/bin/env python3
"""The last resort: cancel and flatten one Alpaca account with nothing but Python 3.9 or newer.

    python3 -S -I emergency.py CREDENTIALS.json [--yes] [--incident ID] [--operator NAME] [--reason TEXT]

One file, standard library only; no Redis, database, orchestrator or virtual environment. Copy it anywhere. It does
NOT trip the breaker: stop the engines too, or they trade against it.

CREDENTIALS.json, readable by its owner only (chmod 600):

    {"account": "ALPHA", "base_url": "https://api.alpaca.markets", "key_id": "…", "secret_key": "…",
     "spool": "/var/lib/breaker/spool"}

What it does is written to `spool`, from where `breaker audit drain` moves it into the ledger. Optional "pace" holds
seconds by the names of `Pace` below.

It goes by the rules of the kill switch (tasks/kill/plan.py says why each is there): orders are read before positions;
every page is read; a close is at most the position less what already works on reducing it and what the venue calls
available; its client order id is made of incident, symbol and number, so that the venue refuses the second of two; an
answer that was lost is looked up and never sent again under another id; flat is two agreeing readings. Unless given,
the incident id is made of account and day: runs of this file, on any host, know each other's closes.

Exit status: 0 flat, 1 declined, nothing changed, 2 usage or credentials, nothing changed, 3 not proven flat.
"""

# It has to run on Python 3.9: what newer Pythons offer instead is left alone.
# ruff: noqa: UP017

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import getpass
import hashlib
import http.client
import json
import os
import re
import signal
import stat
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

FLAT, DECLINED, USAGE, NOT_FLAT = 0, 1, 2, 3
PAGE = 500
BULK_FROM = 5
FRESH_FOR = 2.0
"""Seconds after which a reading is too old to close by."""
MARKET_CLOCK_AGE = 5.0
IDLE_POLL_FACTOR = 8
READING = 4
"""Requests that one reading of the book takes, most of the time."""
CLOSED = ("filled", "canceled", "expired", "rejected", "replaced")
ZERO = Decimal(0)
_T = TypeVar("_T")
_NAMESPACE = uuid.UUID("b2f0a3d4-5c1e-4f7b-9a68-3d2e1c0b7f55")


class Unavailable(Exception):
    """The venue gave no usable answer: what was asked for may have happened or not."""


class RateLimited(Unavailable):
    """429, or known to be used up: nothing was done."""


class Refused(Exception):
    """The venue answered that it will not."""


class Unusable(Exception):
    """The command line or the credentials can't be used; nothing was sent."""


@dataclass(frozen=True)
class Pace:
    """Seconds, and fractions of the last price; most by the names and values of `[kill]` in breaker.toml."""

    deadline: float = 300.0
    request_timeout: float = 5.0
    cancel_patience: float = 5.0
    poll_interval: float = 0.25
    escalate_after: float = 3.0
    retry_backoff: float = 1.0
    retry_backoff_max: float = 15.0
    stuck_after: float = 30.0
    position_lag: float = 5.0
    """How long the venue's positions may lag behind its fills."""
    settle: float = 1.0
    guard: float = 5.0
    collars: tuple[Decimal, ...] = (Decimal("0.02"), Decimal("0.05"), Decimal("0.10"))


@dataclass(frozen=True)
class Credentials:
    account: str
    base_url: str
    key_id: str
    secret_key: str
    spool: Path
    pace: Pace


@dataclass(frozen=True)
class Order:
    id: str
    client_order_id: str
    symbol: str
    side: str
    quantity: Decimal
    filled: Decimal
    status: str
    type: str

    @property
    def remaining(self) -> Decimal:
        return self.quantity - self.filled


@dataclass(frozen=True)
class Position:
    symbol: str
    quantity: Decimal
    available: Decimal
    price: Decimal | None
    crypto: bool

    @property
    def closing_side(self) -> str:
        return "sell" if self.quantity > 0 else "buy"


@dataclass(frozen=True)
class Market:
    is_open: bool
    next_open: str


@dataclass
class Memory:
    """What is remembered of a symbol between rounds; see `SymbolMemory` in tasks/kill/plan.py."""

    changed_at: float
    quantity: Decimal = ZERO
    attempt: int = 0
    rung: int = 0
    sent_at: float | None = None
    last_close: str = ""
    sent_against: Decimal = ZERO
    ended_at: float | None = None
    excess: Decimal | None = None
    refusals: int = 0
    retry_at: float = 0.0
    reason: str = ""
    resisting_since: float | None = None


@dataclass(frozen=True)
class Close:
    position: Position
    quantity: Decimal
    client_order_id: str
    kind: str
    body: dict[str, Any]


class Venue:
    """Alpaca's Trading API v2 over urllib, which honours the proxy variables and checks certificates."""

    def __init__(self, credentials: Credentials) -> None:
        self._base = credentials.base_url.rstrip("/").removesuffix("/v2") + "/v2"
        self._headers = {"APCA-API-KEY-ID": credentials.key_id, "APCA-API-SECRET-KEY": credentials.secret_key}
        self._timeout = credentials.pace.request_timeout
        self._remaining: int | None = None
        self._limit = 0
        self._reset_at = 0.0
        self._opener = urllib.request.build_opener(_NoRedirect)

    def spared(self) -> float:
        """Seconds between two readings so that they leave half of the rate limit to cancels and closes."""
        left = self._reset_at - time.monotonic()
        if self._remaining is None or left <= 0 or self._remaining > self._limit / 2:
            return 0.0
        return left * READING / max(self._remaining, READING)

    def orders(self) -> list[Order]:
        """Every open order; that there are none is believed only if the nested list agrees."""
        return self._pages("false") or self._pages("true")

    def positions(self) -> list[Position]:
        return self._understood(lambda: [_position(item) for item in self.read("/positions")])

    def market(self) -> Market:
        body = self.read("/clock")
        return self._understood(lambda: Market(bool(body["is_open"]), str(body.get("next_open") or "")))

    def order(self, client_order_id: str) -> Order | None:
        query = urllib.parse.urlencode({"client_order_id": client_order_id})
        status, body = self.request("GET", f"/orders:by_client_order_id?{query}")
        if status == 404:
            return None
        if status != 200:
            raise Unavailable(f"looking up {client_order_id}: the venue answered {status}: {_message(body)}")
        return self._understood(lambda: _order(body))

    def read(self, path: str) -> Any:
        status, body = self.request("GET", path)
        if status in (401, 403):
            raise Refused(f"GET {path}: the venue refuses the keys ({status}): {_message(body)}")
        if status != 200:
            raise Unavailable(f"GET {path}: the venue answered {status}: {_message(body)}")
        return body

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, may_wait: bool = True
    ) -> tuple[int, Any]:
        """One request, sent once: its status and JSON. Raises Unavailable, also for 5xx, and RateLimited."""
        wait = max(0.0, self._reset_at - time.monotonic())
        if self._remaining is not None and self._remaining <= 0 and wait > 0:
            if not may_wait:
                raise RateLimited(f"{method} {path}: the venue's rate limit is used up for {wait:.0f} s")
            time.sleep(wait)
        request = urllib.request.Request(  # noqa: S310  the operator's own URL, http or https by its check
            self._base + path,
            None if body is None else json.dumps(body).encode(),
            {**self._headers, "Content-Type": "application/json"},
            method=method,
        )
        try:
            with _at_most(self._timeout):
                status, headers, raw = self._exchange(request)
        except (OSError, http.client.HTTPException, ValueError) as error:  # urllib's own errors are OSErrors
            why = getattr(error, "reason", None) or error
            raise Unavailable(f"{method} {path}: {why or type(error).__name__}") from None
        self._observe(headers)
        if status == 429:
            if self._remaining != 0:  # another limit than the headers tell of, as by the second: not worth a minute
                self._remaining, self._reset_at = 0, time.monotonic() + 1.0
            raise RateLimited(f"{method} {path}: the venue refuses for now (429)")
        if status >= 500:
            raise Unavailable(f"{method} {path}: the venue answered {status}")
        try:
            return status, json.loads(raw) if raw else None
        except ValueError:
            raise Unavailable(f"{method} {path}: the answer is not JSON") from None

    def _exchange(self, request: urllib.request.Request) -> tuple[int, Any, bytes]:
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def _observe(self, headers: Any) -> None:
        try:
            remaining, reset = int(headers["X-Ratelimit-Remaining"]), float(headers["X-Ratelimit-Reset"])
            self._limit = int(headers["X-Ratelimit-Limit"])
            now = parsedate_to_datetime(headers["Date"]).timestamp() if headers["Date"] else time.time()
        except (TypeError, ValueError):
            return
        self._remaining, self._reset_at = remaining, time.monotonic() + min(max(reset - now, 0.05), 60.0)

    def _pages(self, nested: str) -> list[Order]:
        """Oldest first; a page starts a little before the end of the last, as orders may share a time stamp."""
        found: dict[str, Order] = {}
        listed: set[str] = set()
        after = ""
        while True:
            query = {"status": "open", "limit": str(PAGE), "direction": "asc", "nested": nested}
            page = self.read("/orders?" + urllib.parse.urlencode({**query, **({"after": after} if after else {})}))
            orders, after = self._understood(partial(_read_page, page))
            fresh = [order for order in orders if order.id not in listed]
            listed.update(order.id for order in fresh)
            found.update({order.id: order for order in fresh if order.status not in CLOSED})
            if len(page) < PAGE:
                return list(found.values())
            if not fresh:
                raise Unavailable(f"more than {PAGE} open orders share one time stamp; cancel them at the venue")

    def _understood(self, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise Unavailable(f"the venue's answer can't be understood ({type(error).__name__}: {error})") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keys go to the host that they are for, and nowhere else."""

    def redirect_request(self, *_arguments: Any) -> None:
        return None


class Spool:
    """Appends lines to the directory that ledger/spool.py drains; what the disk refuses goes to the screen."""

    def __init__(self, directory: Path, **common: Any) -> None:
        self._directory = directory
        self._common = common
        self.problem = ""

    def record(self, action: str, outcome: str = "OK", /, **details: Any) -> None:
        """One audit record; never raises, as a full disk must not keep the book from being closed."""
        line = json.dumps(
            {
                "action": action,
                "source": "emergency",
                "id": str(uuid.uuid4()),
                "timestamp": datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "details": details,
                "ip_address": None,
                "scope": "global",
                "flow_run_id": None,
                "outcome": outcome,
                **self._common,
            },
            default=str,
        )
        try:
            self._append(line.encode() + b"\n")
        except OSError as error:
            self.problem = f"{self._directory} can't be written ({error.strerror})"
            say(f"  ! not in the spool: {line}")

    def _append(self, data: bytes) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        current = self._directory / "current.jsonl"
        deadline = time.monotonic() + 2.0
        while True:
            file = os.open(current, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                _lock(file, deadline)
                if _is_still(file, current):
                    _write(file, _end_of_torn_line(file) + data)
                    _sync_directory(self._directory)
                    return
            finally:
                os.close(file)


class Flattening:
    """Rounds of reading, closing and cancelling, until the account is flat, stuck or out of time."""

    def __init__(self, venue: Venue, spool: Spool, incident: str, pace: Pace) -> None:
        self._venue = venue
        self._spool = spool
        self._incident = incident
        self._pace = pace
        self._started = time.monotonic()
        self._memory: dict[str, Memory] = {}
        self._market = Market(True, "")
        self._market_read = float("-inf")
        self._seen = False
        self._held_up = 0.0
        self._planned_at: float | None = None
        self._last_book: object = None
        self._pause = pace.poll_interval

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    @property
    def overdue(self) -> bool:
        return self.elapsed >= self._pace.deadline

    def sweep(self) -> None:
        """One bulk cancel, before anything is read."""
        accepted, refused = self._cancel_all()
        self._spool.record("FIRST_SWEEP", accepted=accepted, refused=refused)
        say(f"▸ FIRST SWEEP  {accepted} orders asked to cancel" + (f", {refused} refused" if refused else ""))

    def until_flat(self) -> dict[str, str]:
        """What is stuck, each symbol with the reason; empty when the venue says flat, and went on saying so."""
        flat_since: float | None = None
        while True:
            try:
                self._read_market()
                orders = self._venue.orders()
                positions = [position for position in self._venue.positions() if position.quantity]
            except Unavailable as error:
                flat_since = None
                self._note_trouble(error)
                if self.overdue:
                    return {"*": f"the venue can't be read: {error}"}
                if not self._seen:
                    self._cancel_all()  # what can't be read can perhaps be cancelled all the same
                continue
            read_at, self._seen = time.monotonic(), True
            if not orders and not positions:
                if flat_since is not None and read_at - flat_since >= self._pace.settle + self._pace.guard:
                    return {}
                flat_since = flat_since or read_at
                time.sleep(self._pace.settle)
                continue
            flat_since = None
            stuck = self._round(orders, positions, read_at)
            if stuck is not None:
                return stuck
            self._rest((tuple(orders), tuple(positions)))

    def _round(self, orders: list[Order], positions: list[Position], read_at: float) -> dict[str, str] | None:
        now = self._now()
        cancels, closes, stuck = self._plan(orders, positions, now)
        remaining = {order.symbol for order in orders} | {position.symbol for position in positions}
        if self.overdue or remaining == set(stuck):
            self._cancel(cancels, len(orders))
            return {
                symbol: stuck.get(symbol) or self._memory[symbol].reason or "the time was over" for symbol in remaining
            }
        canceling = {order.symbol for order in cancels}
        for close in closes:
            resisting = self._memory[close.position.symbol].resisting_since
            patient = resisting is not None and now - resisting < self._pace.cancel_patience
            if not (close.position.symbol in canceling and patient):
                self._send(close, read_at)
        self._cancel(cancels, len(orders))
        return None

    def _now(self) -> float:
        """The clock of being stuck: it hardly moves while the venue holds us back, by its rate limit or by silence."""
        now = time.monotonic()
        if self._planned_at is not None:
            self._held_up += max(0.0, now - self._planned_at - self._pause - FRESH_FOR)
        self._planned_at = now
        return now - self._held_up

    def _plan(
        self, orders: list[Order], positions: list[Position], now: float
    ) -> tuple[list[Order], list[Close], dict[str, str]]:
        held = {position.symbol: position for position in positions}
        cancels: list[Order] = []
        closes: list[Close] = []
        stuck: dict[str, str] = {}
        for gone in set(self._memory) - set(held) - {order.symbol for order in orders}:
            memory = self._memory[gone]
            memory.changed_at, memory.quantity, memory.rung, memory.refusals = now, ZERO, 0, 0
            memory.retry_at, memory.reason, memory.resisting_since, memory.excess = 0.0, "", None, None
            memory.ended_at = now if memory.ended_at is None else memory.ended_at
        for symbol in sorted({*held, *(order.symbol for order in orders)}):
            position, of_symbol = held.get(symbol), [order for order in orders if order.symbol == symbol]
            memory = self._remember(symbol, position, now)
            ours = [order for order in of_symbol if self._attempt_of(order) is not None]
            others = [order for order in of_symbol if order not in ours]
            memory.resisting_since = (memory.resisting_since or now) if others else None
            unwanted = [*others]
            if ours:
                self._take_over(memory, ours)
                unwanted += self._no_longer_wanted(memory, ours, position, now)
            elif position is not None and now >= memory.retry_at:
                close = self._close(memory, position, of_symbol)
                closes += [close] if close else []
            cancels += [order for order in unwanted if order.status != "pending_cancel"]
            queued = self._is_queued(ours, position)
            if queued or now - memory.changed_at >= self._pace.stuck_after:
                stuck[symbol] = self._why_stuck(memory, ours, others, queued)
        return cancels, closes, stuck

    def _remember(self, symbol: str, position: Position | None, now: float) -> Memory:
        quantity = abs(position.quantity) if position else ZERO
        memory = self._memory.setdefault(symbol, Memory(changed_at=now, quantity=quantity))
        if quantity < memory.quantity:
            memory.changed_at, memory.refusals = now, 0
        memory.quantity = quantity
        return memory

    def _take_over(self, memory: Memory, ours: list[Order]) -> None:
        """Closes at work that another run, or an answer that was lost, made."""
        newest = max(ours, key=lambda order: self._attempt_of(order) or 0)
        memory.attempt = max(memory.attempt, self._attempt_of(newest) or 0)
        if memory.last_close != newest.client_order_id:
            memory.last_close, memory.ended_at = newest.client_order_id, None
            memory.sent_against = memory.quantity + newest.filled

    def _no_longer_wanted(
        self,
        memory: Memory,
        ours: list[Order],
        position: Position | None,
        now: float,
    ) -> list[Order]:
        size, remaining = abs(position.quantity) if position else ZERO, sum((o.remaining for o in ours), ZERO)
        if position is not None and any(order.side != position.closing_side for order in ours):
            return ours
        if remaining > size:
            # Usually it filled between the two readings. If it did not fill until now, it was too large already then.
            same, memory.excess = memory.excess == remaining, remaining
            return ours if same else []
        memory.excess = None
        if position is None or memory.sent_at is None:
            memory.sent_at = now
            return []
        rungs = self._ladder(position, size)
        kind, _ = rungs[memory.rung % len(rungs)]
        patience = min(self._pace.escalate_after * 2 ** (memory.rung // len(rungs)), self._pace.retry_backoff_max)
        if kind == "queued" or now - memory.sent_at < patience:
            return []
        memory.reason = f"a {kind} order of {ours[0].quantity} stood {patience:g} s without filling"
        memory.rung, memory.sent_at = memory.rung + 1, now
        return ours

    def _close(self, memory: Memory, position: Position, of_symbol: list[Order]) -> Close | None:
        reducing = [order for order in of_symbol if order.side == position.closing_side]
        if any(order.remaining <= ZERO for order in reducing):
            return None  # an order for an amount of money: how much of the position it may take is not known
        working = sum((order.remaining for order in reducing), ZERO)
        quantity = min(abs(position.quantity) - working, position.available)
        if quantity <= ZERO:
            return None
        rungs = self._ladder(position, quantity)
        kind, collar = rungs[memory.rung % len(rungs)]
        body: dict[str, Any] = {
            "symbol": position.symbol,
            "qty": f"{quantity:f}",
            "side": position.closing_side,
            "type": "market",
            "time_in_force": "gtc" if position.crypto else "day",
            "client_order_id": self._client_order_id(position.symbol, memory.attempt + 1),
        }
        if collar and position.price is not None:
            body["type"], body["limit_price"] = "limit", f"{_limit(position, collar):f}"
        if kind == "extended-hours limit":
            body["extended_hours"] = True
        return Close(position, quantity, body["client_order_id"], kind, body)

    def _ladder(self, position: Position, quantity: Decimal) -> list[tuple[str, Decimal]]:
        """The kinds of order to try in turn, each with how far past the last price it may go."""
        collars = self._pace.collars
        if self._market.is_open or position.crypto:
            limits = [("limit", collar) for collar in collars] if position.price else []
            return [("market", ZERO), *limits]
        whole = quantity == quantity.to_integral_value()
        extended = [("extended-hours limit", collars[0])] if position.price and whole and collars else []
        return [*extended, ("queued", ZERO)]

    def _send(self, close: Close, read_at: float) -> None:
        memory = self._memory[close.position.symbol]
        # Asked twice, as looking up the last close may itself take long.
        if _is_old(read_at) or not self._may_close(memory, close) or _is_old(read_at):
            return
        about = {"symbol": close.position.symbol, "client_order_id": close.client_order_id}
        self._spool.record("POSITION_CLOSE_SENT", quantity=str(close.quantity), kind=close.kind, **about)
        outcome, reason = self._post(close)
        now = time.monotonic() - self._held_up
        if outcome in ("accepted", "duplicate"):
            memory.attempt, memory.sent_at = memory.attempt + 1, now
            memory.last_close, memory.sent_against, memory.ended_at = close.client_order_id, memory.quantity, None
        elif outcome == "refused":
            self._refused(memory, reason, now)
        elif outcome == "unknown":
            memory.last_close, memory.sent_against = close.client_order_id, memory.quantity
            memory.ended_at, memory.reason = None, reason
        ok = outcome in ("accepted", "duplicate")
        self._spool.record("POSITION_CLOSE_ANSWERED", "OK" if ok else "FAILED", outcome=outcome, reason=reason, **about)

    def _post(self, close: Close) -> tuple[str, str]:
        """Send it once; an answer that was lost is looked up."""
        try:
            status, body = self._venue.request("POST", "/orders", close.body, may_wait=False)
        except RateLimited as error:
            return "not sent", str(error)
        except Unavailable as lost:
            try:
                found = self._venue.order(close.client_order_id)
            except Unavailable as error:
                return "unknown", f"{lost}; then {error}"
            return ("accepted", "") if found else ("unknown", f"{lost}; the venue does not know the order (yet)")
        if status in (200, 201):
            return "accepted", ""
        message = _message(body)
        return ("duplicate" if "client_order_id must be unique" in message else "refused"), message

    def _may_close(self, memory: Memory, close: Close) -> bool:
        """Whether it is known what became of the last close, and the position can be believed."""
        if memory.last_close in ("", close.client_order_id):
            return True
        try:
            last = self._venue.order(memory.last_close)
        except Unavailable:
            return False
        if last is not None and last.status not in CLOSED:
            return False
        now = time.monotonic() - self._held_up
        memory.ended_at = now if memory.ended_at is None else memory.ended_at
        unseen = last is None or (last.filled > 0 and memory.quantity > memory.sent_against - last.filled)
        if unseen and now - memory.ended_at < self._pace.position_lag:
            return False
        memory.last_close, memory.ended_at = "", None
        if last is not None and last.status in ("rejected", "expired") and last.filled == 0:
            self._refused(memory, f"the venue took the close and then called it {last.status}", now)
            return False
        return True

    def _refused(self, memory: Memory, reason: str, now: float) -> None:
        wait = min(self._pace.retry_backoff * 2**memory.refusals, self._pace.retry_backoff_max)
        memory.refusals, memory.retry_at = memory.refusals + 1, now + wait
        memory.rung, memory.reason = memory.rung + 1, reason

    def _cancel(self, orders: list[Order], of: int) -> None:
        """In bulk only where that would not take a close of ours with it, and by id for what survives."""
        if not orders:
            return
        if len(orders) >= max(BULK_FROM, of):
            accepted, _ = self._cancel_all()
            if accepted:
                return
        accepted, refusals = 0, []
        for order in orders:
            try:
                status, body = self._venue.request("DELETE", f"/orders/{order.id}")
            except Unavailable as error:
                self._note_trouble(error)
                break
            if status in (200, 204):
                accepted += 1
            elif status != 404 and not any(word in _message(body).lower() for word in CLOSED):
                refusals.append(f"{order.id}: {_message(body)}")
                self._memory[order.symbol].reason = f"the venue will not cancel order {order.id}: {_message(body)}"
        self._spool.record("ORDERS_CANCELED", asked=len(orders), accepted=accepted, refused=refusals[:50])

    def _cancel_all(self) -> tuple[int, int]:
        """How many cancels were accepted and refused; 207 is not success but a status for each order."""
        try:
            status, body = self._venue.request("DELETE", "/orders")
        except Unavailable as error:
            self._note_trouble(error)
            return 0, 0
        if status in (401, 403):
            raise Refused(f"the venue refuses the keys ({status}): {_message(body)}")
        items = body if isinstance(body, list) else []
        accepted = sum(1 for item in items if isinstance(item, dict) and item.get("status") in (200, 204))
        return accepted, len(items) - accepted

    def _read_market(self) -> None:
        """Without an answer it goes on by the last one: an order for a closed market is queued, or refused."""
        if time.monotonic() - self._market_read > MARKET_CLOCK_AGE:
            self._market_read = time.monotonic()
            try:
                self._market = self._venue.market()
            except Unavailable as error:
                self._note_trouble(error)

    def _note_trouble(self, error: Exception) -> None:
        self._spool.record("VENUE_UNAVAILABLE", "FAILED", error=str(error))
        say(f"  ! {error}")
        time.sleep(self._pace.poll_interval)

    def _rest(self, book: object) -> None:
        """Readings that show no change come ever less often, to spare the rate limit."""
        longest = self._pace.poll_interval * IDLE_POLL_FACTOR
        self._pause = self._pace.poll_interval if book != self._last_book else min(self._pause * 2, longest)
        self._last_book = book
        self._pause = max(self._pause, self._venue.spared())
        time.sleep(self._pause)

    def _client_order_id(self, symbol: str, attempt: int) -> str:
        return f"{self._prefix(symbol)}-{attempt}"

    def _attempt_of(self, order: Order) -> int | None:
        prefix, _, number = order.client_order_id.rpartition("-")
        ours = prefix == self._prefix(order.symbol) and number.isascii() and number.isdecimal()
        return int(number) if ours else None

    def _prefix(self, symbol: str) -> str:
        readable = f"{self._incident}-{symbol}"
        return readable if len(readable) <= 121 else hashlib.sha256(readable.encode()).hexdigest()

    def _is_queued(self, ours: list[Order], position: Position | None) -> bool:
        crypto = position is not None and position.crypto
        return not self._market.is_open and not crypto and any(order.type == "market" for order in ours)

    def _why_stuck(self, memory: Memory, ours: list[Order], others: list[Order], queued: bool) -> str:
        if queued:
            return f"market closed; a market order for {ours[0].quantity} is queued for {self._market.next_open}"
        if memory.reason:
            return memory.reason
        if others:
            return f"{len(others)} orders are open at the venue ({others[-1].status}); look for an engine still trading"
        return "the venue accepted a close but has not filled it" if ours else "no close could be sent"


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    try:
        credentials = read_credentials(options.credentials)
    except Unusable as error:
        say(f"emergency: {error}")
        return USAGE
    if not options.yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        say("emergency: no terminal to ask on: nothing was done. To go on, add --yes.")
        return USAGE
    incident = options.incident or _incident_of_the_day(credentials)
    spool = Spool(credentials.spool, user_id=options.operator, incident_id=incident)
    venue = Venue(credentials)
    try:
        if not options.yes and not _confirmed(venue, credentials):
            say("Declined: nothing was cancelled or flattened.")
            return DECLINED
        return _flatten(venue, spool, incident, credentials, options.reason)
    except Refused as error:
        spool.record("ACCOUNT_FAILED", "FAILED", account=credentials.account, error=str(error))
        say(f"✗ NOT FLAT  {credentials.account}: {error}")
        return NOT_FLAT


def read_credentials(path: Path) -> Credentials:
    """Raises Unusable: missing, incomplete, or readable by others than its owner."""
    try:
        mode = path.stat().st_mode
        body = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Unusable(f"{path} can't be read ({error.strerror}); nothing was done") from None
    except ValueError:
        raise Unusable(f"{path} is not JSON; nothing was done") from None
    if stat.S_IMODE(mode) & 0o077:
        raise Unusable(f"others can read {path}, which holds keys; nothing was done. Run: chmod 600 {path}")
    needed = ("base_url", "key_id", "secret_key", "spool")
    lacking = [name for name in needed if not isinstance(body, dict) or not isinstance(body.get(name), str)]
    if lacking:
        raise Unusable(f"{path} has no {', '.join(lacking)}; nothing was done")
    if not body["base_url"].startswith(("https://", "http://")):
        raise Unusable(f"base_url in {path} must start with https:// or http://; nothing was done")
    return Credentials(
        account=str(body.get("account") or "account"),
        base_url=body["base_url"],
        key_id=body["key_id"],
        secret_key=body["secret_key"],
        spool=Path(body["spool"]).expanduser().absolute(),
        pace=_pace(body.get("pace") or {}, path),
    )


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _flatten(venue: Venue, spool: Spool, incident: str, credentials: Credentials, reason: str) -> int:
    account = credentials.account
    say(f"■ {account} at {credentials.base_url}, incident {incident}. The breaker is NOT tripped by this.")
    spool.record("KILL_SWITCH_STARTED", account=account, reason=reason, by="emergency.py")
    flattening = Flattening(venue, spool, incident, credentials.pace)
    flattening.sweep()
    stuck = flattening.until_flat()
    if stuck:
        for symbol, why in sorted(stuck.items()):
            say(f"  ! stuck  {account} {symbol}: {why}")
        say(f"✗ NOT FLAT  after {flattening.elapsed:.1f} s. Deal with it at the venue, or run this again: it is safe.")
    else:
        spool.record("ACCOUNT_FLAT", account=account, after_seconds=round(flattening.elapsed, 3))
        say(f"✓ FLAT  {account}, watched until {flattening.elapsed:.1f} s")
    outcome = "FAILED" if stuck else "OK"
    spool.record("KILL_SWITCH_FINISHED", outcome, account=account, flat=not stuck, stuck=stuck)
    if spool.problem:
        say(f"  ! done without the spool: {spool.problem}; the lines above are the only record, keep them")
    say("next: breaker trip, if that has not been done; then: breaker audit drain")
    return NOT_FLAT if stuck else FLAT


def _confirmed(venue: Venue, credentials: Credentials) -> bool:
    try:
        orders, positions = venue.orders(), venue.positions()
        say(f"{credentials.account} at {credentials.base_url}: {len(orders)} open orders, {len(positions)} positions")
    except Unavailable as error:
        say(f"{credentials.account} at {credentials.base_url}: the book can't be read ({error})")
    sys.stderr.write("Cancel all of these orders and flatten all of these positions? Type FLATTEN: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip() == "FLATTEN"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emergency.py",
        description="Cancel every order and flatten every position of one Alpaca account. Needs nothing else.",
        epilog="Exit status: 0 flat, 1 declined, 2 usage or credentials (nothing changed), 3 not proven flat.",
    )
    parser.add_argument("credentials", type=Path, metavar="CREDENTIALS.json")
    parser.add_argument("--yes", action="store_true", help="don't ask")
    parser.add_argument("--incident", help="join the incident of a kill switch that began; its report names it")
    parser.add_argument("--operator", default=_login(), help="who does this; the login name unless given")
    parser.add_argument("--reason", default="last resort, no reason given")
    return parser


def _pace(body: Any, path: Path) -> Pace:
    try:
        values: dict[str, Any] = {
            name: tuple(Decimal(str(item)) for item in value) if name == "collars" else float(value)
            for name, value in body.items()
        }
        return Pace(**values)
    except (AttributeError, TypeError, ValueError, ArithmeticError):
        raise Unusable(f'"pace" in {path} must map names of Pace to numbers; nothing was done') from None


def _incident_of_the_day(credentials: Credentials) -> str:
    day = datetime.now(timezone.utc).date().isoformat()
    return str(uuid.uuid5(_NAMESPACE, f"{credentials.base_url} {credentials.key_id} {day}"))


def _login() -> str:
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _read_page(page: Any) -> tuple[list[Order], str]:
    """The orders of one page, legs included, and from where the next one starts."""
    orders = [_order(leg) for item in page for leg in (item, *(item.get("legs") or ()))]
    return orders, _a_little_before(page[-1].get("submitted_at") or page[-1]["created_at"]) if page else ""


def _order(body: dict[str, Any]) -> Order:
    filled = _number(body.get("filled_qty") or "0")
    return Order(
        id=body["id"],
        client_order_id=body.get("client_order_id") or "",
        symbol=_symbol(body),
        side=body.get("side") or "buy",
        quantity=_number(body.get("qty") or filled),
        filled=filled,
        status=body["status"],
        type=body.get("type") or body.get("order_type") or "limit",
    )


def _position(body: dict[str, Any]) -> Position:
    quantity = _number(body["qty"])
    available, price = body.get("qty_available"), body.get("current_price")
    return Position(
        symbol=_symbol(body),
        quantity=-abs(quantity) if body.get("side") == "short" else quantity,
        available=abs(quantity if available is None else _number(available)),
        price=None if price is None else _number(price),
        crypto=body.get("asset_class") == "crypto",
    )


def _symbol(body: dict[str, Any]) -> str:
    """Alpaca calls a pair `BTC/USD` in orders and `BTCUSD` in positions, and takes either in a request."""
    symbol: str = body.get("symbol") or ""
    return symbol.replace("/", "") if body.get("asset_class") == "crypto" else symbol


def _number(value: Any) -> Decimal:
    number = Decimal(str(value))
    if not number.is_finite():
        raise ValueError(f"{value!r:.40} is not a number")
    return number


def _limit(position: Position, collar: Decimal) -> Decimal:
    """The last price worsened by `collar`, in whole ticks: a cent from a dollar up, else a hundredth of one."""
    assert position.price is not None  # noqa: S101  the ladder has no limit without it
    buying = position.closing_side == "buy"
    target = position.price * (1 + collar * (1 if buying else -1))
    tick = Decimal("0.01") if target >= 1 else Decimal("0.0001")
    return max(target.quantize(tick, rounding=ROUND_UP if buying else ROUND_DOWN), tick)


def _a_little_before(text: str) -> str:
    """A millisecond earlier. Python 3.9 reads neither nanoseconds nor `Z`."""
    moment, fraction, zone = re.fullmatch(r"(.{19})(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text).groups()  # type: ignore[union-attr]
    whole = datetime.fromisoformat(moment + ("+00:00" if zone == "Z" else zone))
    microseconds = int(((fraction or "") + "000000")[:6])
    return (whole + timedelta(microseconds=microseconds) - timedelta(milliseconds=1)).isoformat()


def _is_old(read_at: float) -> bool:
    return time.monotonic() - read_at > FRESH_FOR


def _message(body: Any) -> str:
    return str(body.get("message", "")) if isinstance(body, dict) else ""


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer in all; urllib's own time limit is for each piece that arrives."""

    def expired(*_signal: Any) -> None:
        raise TimeoutError(errno.ETIMEDOUT, f"no answer within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _lock(file: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds it") from None
            time.sleep(0.001)
        else:
            return


def _is_still(file: int, path: Path) -> bool:
    """False when a drain has put the file aside while we waited for the lock."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _end_of_torn_line(file: int) -> bytes:
    size = os.fstat(file).st_size
    return b"\n" if size and os.pread(file, 1, size - 1) != b"\n" else b""


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
    os.fsync(file)


def _sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
