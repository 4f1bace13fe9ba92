#!/usr/bin/env python3
"""The last resort: cancel and flatten one Alpaca account with nothing but Python 3.9 or newer.

    python3 -S -I emergency.py CREDENTIALS.json [--yes] [--unlock] [--incident ID] [--operator NAME] [--reason TEXT]

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
answer that was lost is looked up and never sent again under another id; what can't be read is cancelled by its id, and
its symbol waits for it; stops stay until their position is about to be closed; short options are bought back before
what may cover them is sold; flat is two agreeing readings. Nothing but orders and positions is needed. Unless given,
the incident id is made of account and day: runs of this file, on any host, know each other's closes.

Where the venue refuses to close because trading is suspended in the account, that is lifted if a kill switch has done
it (`venue_locks/` beside the spool says so) or with --unlock; anybody else's stays, and is named. It stays unlocked.

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
ONE_BY_ONE = 50
"""Fewer cancels than this go one by one where closes of an earlier run are at work, and are to stay."""
LET_GO_AT_ONCE = 3
"""Positions whose protective orders go in one round: a run that dies then leaves no more without stop and close."""
FRESH_FOR = 2.0
"""Seconds after which a reading is too old to close by."""
MARKET_CLOCK_AGE = 5.0
IDLE_POLL_FACTOR = 8
READ_BACK_WITHIN = 3.0
"""Seconds after which a venue that took a setting and doesn't show it is not waited for."""
READING = 4
"""Requests that one reading of the book takes, most of the time."""
MARKET_CLOCK_BELIEVED = 60.0
CLOSED = ("filled", "canceled", "expired", "rejected", "replaced", "calculated")
"""A calculated order has been executed; only its settlement is still worked out."""
OVER = re.compile(r"order is already in [\"']?(filled|canceled|cancelled|expired|rejected|replaced|calculated)\b")
SIDES = {"buy": "buy", "sell": "sell", "sell_short": "sell", "buy_minus": "buy", "sell_plus": "sell"}
BELOW_MINIMUM = re.compile(
    r"minimal amount of order|minimum (order )?(size|quantity|qty|amount|notional)|qty must be (>|greater)"
)
"""Less than may be traded. A price that "does not fulfill minimum pricing criteria" is something else."""
STOPS = ("stop", "stop_limit", "trailing_stop")
COARSEST = 3
"""How often a limit price is tried in steps ten times coarser, where the venue refuses those before."""
OPTION = re.compile(r"([A-Z]{1,6})\d?\d{6}([CP])\d{8}")
SENSELESS = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What reading an answer of an unexpected shape raises."""
ZERO = Decimal(0)
_T = TypeVar("_T")
_NAMESPACE = uuid.UUID("b2f0a3d4-5c1e-4f7b-9a68-3d2e1c0b7f55")


class Unavailable(Exception):
    """The venue gave no usable answer: what was asked for may have happened or not."""


class RateLimited(Unavailable):
    """429, or known to be used up: nothing was done."""


class Refused(Exception):
    """The venue answered that it will not; believed when it persists."""


class Unusable(Exception):
    """The command line or the credentials can't be used; nothing was sent."""


@dataclass(frozen=True)
class Pace:
    """Seconds, and fractions of the last price; most by the names and values of `[kill]` in breaker.toml."""

    deadline: float = 300.0
    request_timeout: float = 5.0
    poll_interval: float = 0.25
    escalate_after: float = 3.0
    refusal_patience: float = 5.0
    """How long the venue may refuse the keys before that is believed."""
    cancel_patience: float = 1.0
    """How long an order that was asked to go is waited for before the rest of its symbol is closed beside it."""
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
    parent_id: str = ""
    """Of the order with several legs that this is one of, which can only be cancelled whole."""
    by_amount: bool = False
    """Placed for an amount of money: how much of the symbol it may still take is not known."""

    @property
    def cancel_id(self) -> str:
        return self.parent_id or self.id

    @property
    def remaining(self) -> Decimal:
        return self.quantity - self.filled


@dataclass(frozen=True)
class Unreadable:
    """An order or a position that can't be understood; it blocks its own symbol only."""

    what: str
    symbol: str
    id: str
    problem: str

    def __str__(self) -> str:
        name = " ".join(part for part in (self.what, self.id, f"of {self.symbol}" if self.symbol else "") if part)
        return f"the venue's {name} can't be read: {self.problem}"


@dataclass(frozen=True)
class Position:
    symbol: str
    quantity: Decimal
    available: Decimal
    price: Decimal | None
    kind: str
    """`equity`, `option` or `crypto`."""

    @property
    def closing_side(self) -> str:
        return "sell" if self.quantity > 0 else "buy"


@dataclass(frozen=True)
class Market:
    is_open: bool
    next_open: str


@dataclass(frozen=True)
class Book:
    orders: list[Order]
    positions: list[Position]
    unreadable: list[Unreadable]

    @property
    def empty(self) -> bool:
        return not (self.orders or self.positions or self.unreadable)


@dataclass
class Memory:
    """What is remembered of a symbol between rounds; see `PositionMemory` in tasks/kill/memory.py."""

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
    asked_since: float | None = None
    whole_units: bool = False
    coarser: int = 0
    dust: bool = False


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

    def book(self) -> Book:
        """Orders first, then positions; that there are no orders is believed only if the nested list agrees."""
        orders, unreadable = self._pages("false")
        if not orders and not unreadable:
            orders, unreadable = self._pages("true")
        positions, lost = read_positions(self.read("/positions"))
        return Book(orders, [position for position in positions if position.quantity], [*unreadable, *lost])

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
        return self._understood(lambda: read_order(body))

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

    def _pages(self, nested: str) -> tuple[list[Order], list[Unreadable]]:
        """Oldest first; a page starts a little before the end of the last, as orders may share a time stamp."""
        found: dict[str, Order] = {}
        unreadable: dict[str, Unreadable] = {}
        listed: set[str] = set()
        after = ""
        while True:
            query = {"status": "open", "limit": str(PAGE), "direction": "asc", "nested": nested}
            page = self.read("/orders?" + urllib.parse.urlencode({**query, **({"after": after} if after else {})}))
            orders, lost = self._understood(partial(read_orders, page))
            fresh = {order.id for order in orders} | {item.id for item in lost} - {""}
            unreadable.update({item.id or str(item): item for item in lost})
            found.update({order.id: order for order in orders if order.status not in CLOSED and order.id not in listed})
            if len(page) < PAGE:
                return list(found.values()), list(unreadable.values())
            after = _newest(page)
            if fresh <= listed or not after:
                raise Unavailable(f"more than {PAGE} open orders share one time stamp; cancel them at the venue")
            listed |= fresh

    def _understood(self, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except SENSELESS as error:
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


class VenueLock:
    """The account's own setting by which its venue refuses new orders, where a kill switch has engaged it.

    `record` is what a kill switch keeps of it on its host's disk; see tasks/kill/venue_lock.py. With `asked` the person
    at the keyboard wants it lifted, whoever has engaged it.
    """

    def __init__(self, venue: Venue, spool: Spool, record: Path, *, asked: bool = False) -> None:
        self._venue = venue
        self._spool = spool
        self._record = record
        self._asked = asked
        self.lifted = False

    def lift(self) -> bool:
        """Whether it may be lifted and now is. False as well where that was done before: it is refused all the same."""
        known = self._known()
        ours = known is not None and known.get("phase") in ("setting", "set", "lifting")
        if self.lifted or not (ours or self._asked):
            return False
        why = "a kill switch has set it" if ours else "--unlock"
        self._spool.record("VENUE_LOCK_SENT", suspend=False, why=f"positions have to be closed; {why}")
        if ours:
            self._keep("lifting")  # cut off from here on it is still known for a kill switch's
        try:
            self._switch_off()
        except (Unavailable, Refused, AttributeError) as error:
            self._spool.record("VENUE_LOCK_FAILED", "FAILED", why=str(error))
            say(f"  ! the account could not be unlocked: {error}")
            return False
        if ours:
            self._keep("lifted")
        self.lifted = True
        self._spool.record("VENUE_LOCK_LIFTED", why=f"positions have to be closed; {why}")
        say("▸ UNLOCKED at the venue, to close what is there; nothing locks it again until the next `breaker kill`")
        return True

    def _switch_off(self) -> None:
        """Returns once the account itself says that it is off. Raises Unavailable or Refused."""
        status, body = self._venue.request("PATCH", "/account/configurations", {"suspend_trade": False})
        if status != 200:
            raise Refused(f"the venue answered {status}: {_message(body)}")
        until = time.monotonic() + READ_BACK_WITHIN
        while self._venue.read("/account").get("trade_suspended_by_user"):
            if time.monotonic() >= until:
                raise Refused("the venue took it, and still says that trading is suspended")
            time.sleep(0.25)

    def _known(self) -> dict[str, Any] | None:
        try:
            body = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return body if isinstance(body, dict) else None

    def _keep(self, phase: str) -> None:
        """Never raises: where it can't be kept, closing is still what matters, and the verification finds it lifted."""
        try:
            known = self._known() or {}
            version = max(int(time.time() * 1_000_000), int(known["version"]) + 1)
            beside = self._record.with_suffix(f".{os.getpid()}")
            beside.write_text(json.dumps({**known, "phase": phase, "version": version}), encoding="utf-8")
            beside.replace(self._record)
        except (OSError, *SENSELESS) as error:
            self._spool.record("VENUE_LOCK_FAILED", "FAILED", why=f"not kept on this host's disk: {error}")


class Flattening:
    """Rounds of reading, closing and cancelling, until the account is flat, stuck or out of time."""

    def __init__(self, venue: Venue, spool: Spool, incident: str, pace: Pace, lock: VenueLock | None = None) -> None:
        self._venue = venue
        self._spool = spool
        self._lock = lock
        self._incident = incident
        self._pace = pace
        self._started = time.monotonic()
        self._memory: dict[str, Memory] = {}
        self._market: Market | None = None
        self._market_read = self._market_asked = float("-inf")
        self._seen = False
        self._refused_since: float | None = None
        self._in_bulk: set[str] = set()
        self.dust: dict[str, str] = {}
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
        """Cancel at once what could open a position; everything in one request where nothing protects one."""
        accepted, refused, kept = 0, 0, 0
        try:
            book = self._venue.book()
            ours = {order.cancel_id for order in book.orders if self._attempt_of(order) is not None}
            protective = {order.cancel_id for order in protective_orders(book)} - ours
            kept = len(protective)
            others = {order.cancel_id for order in book.orders} | {item.id for item in book.unreadable if item.id}
            others -= protective | ours
            if protective or (ours and len(others) < ONE_BY_ONE):
                accepted, refused = self._cancel_each(sorted(others))
            else:
                accepted, refused = self._cancel_all()
        except (Unavailable, Refused) as error:
            self._note_trouble(error)
            accepted, refused = self._cancel_all()
        self._spool.record("FIRST_SWEEP", accepted=accepted, refused=refused, protective=kept)
        said = f"▸ FIRST SWEEP  {accepted} orders asked to cancel" + (f", {refused} refused" if refused else "")
        say(said + (f"; {kept} stay, as they protect positions until these are closed" if kept else ""))

    def until_flat(self) -> dict[str, str]:
        """What is stuck, each symbol with the reason; empty when the venue says flat, and went on saying so."""
        flat_since: float | None = None
        while True:
            self._read_market()
            try:
                book = self._venue.book()
            except (Unavailable, Refused) as error:
                flat_since = None
                self._note_trouble(error)
                if self.overdue:
                    return {"*": f"the venue can't be read: {error}"}
                if not self._seen:
                    self._cancel_all()  # what can't be read can perhaps be cancelled all the same
                continue
            read_at, self._seen, self._refused_since = time.monotonic(), True, None
            if not book.orders and not book.unreadable and all(map(self._is_dust, book.positions)):
                if flat_since is not None and read_at - flat_since >= self._pace.settle + self._pace.guard:
                    return {}
                flat_since = flat_since or read_at
                # What a late fill opens again has all its time anew.
                self._forget(set(self._memory) - {held.symbol for held in book.positions}, self._now())
                self._pause = self._pace.settle
                time.sleep(self._pause)
                continue
            flat_since = None
            stuck = self._round(book, read_at)
            if stuck is not None:
                return stuck
            self._rest(book)

    def _round(self, book: Book, read_at: float) -> dict[str, str] | None:
        now = self._now()
        cancels, closes, stuck = self.plan(book, now)
        remaining = (
            {order.symbol for order in book.orders}
            | {position.symbol for position in book.positions}
            | {item.symbol or item.id or item.what for item in book.unreadable}
        ) - {*self.dust}
        if remaining and (self.overdue or remaining == set(stuck)):
            self._cancel(cancels, book)
            return {symbol: stuck.get(symbol) or self._why(symbol) or "the time was over" for symbol in remaining}
        for close in closes:
            self._send(close, read_at)
        self._cancel(cancels, book)
        return None

    def _is_dust(self, position: Position) -> bool:
        """Whether it is what was found to be dust, and nothing has filled on top of it."""
        symbol = position.symbol
        return symbol in self.dust and abs(position.quantity) == self._memory[symbol].quantity

    def _why(self, symbol: str) -> str:
        return self._memory[symbol].reason if symbol in self._memory else ""

    def _now(self) -> float:
        """The clock of being stuck: it hardly moves while the venue holds us back, by its rate limit or by silence."""
        now = time.monotonic()
        if self._planned_at is not None:
            self._held_up += max(0.0, now - self._planned_at - self._pause - FRESH_FOR)
        self._planned_at = now
        return now - self._held_up

    def plan(self, book: Book, now: float) -> tuple[list[str], list[Close], dict[str, str]]:
        """One round: the ids to cancel, the closes to send, what is stuck; see `plan_round` in tasks/kill/plan.py."""
        held = {position.symbol: position for position in book.positions}
        blocked = {item.symbol: str(item) for item in book.unreadable if item.symbol}
        covering = _covering(held, book.unreadable)
        symbols = {*held, *blocked, *(order.symbol for order in book.orders)}
        cancels: dict[str, None] = {item.id: None for item in book.unreadable if item.id}
        closes: list[Close] = []
        stuck: dict[str, str] = {}
        self.dust = {}
        settles = self._pace.cancel_patience
        known = ((o.symbol, self._memory[o.symbol].asked_since) for o in book.orders if o.symbol in self._memory)
        going = {symbol for symbol, since in known if since is not None and now - since < settles}
        self._forget(set(self._memory) - symbols, now)
        for symbol in sorted(symbols):
            position, of_symbol = held.get(symbol), [order for order in book.orders if order.symbol == symbol]
            memory = self._remember(symbol, position, now)
            ours = [order for order in of_symbol if self._attempt_of(order) is not None]
            others = [order for order in of_symbol if order not in ours]
            cover, why = covering.get(symbol, (ZERO, ""))
            covers_all = position is not None and cover >= abs(position.quantity)
            hindrance = blocked.get(symbol) or (why if covers_all else "")
            close, unwanted = None, []
            closing = position is not None and not hindrance and not self.overdue and now >= memory.retry_at
            if ours:
                self._take_over(memory, ours)
                unwanted = self._no_longer_wanted(memory, ours, position, now)
            elif position is not None and closing:
                close = self._close(memory, position, of_symbol, cover)
            closing = closing and position is not None and bool(self._ladder(position, memory))
            about_to_close = (closing or bool(ours)) and not cover
            protection = protective_of(others, position)
            asked_before = bool(ours) or memory.asked_since is not None
            if protection and about_to_close and not asked_before and len(going | {symbol}) > LET_GO_AT_ONCE:
                about_to_close = False  # its turn comes
                memory.changed_at = memory.changed_at if memory.sent_at or memory.refusals else now
            elif protection and about_to_close:
                going.add(symbol)
            keep = [] if about_to_close else protection
            if keep and cover and not hindrance:
                hindrance = f"{why}; its protective orders stay until then"
            gone = [order for order in (*others, *unwanted) if order not in keep and order.status != "pending_cancel"]
            cancels.update({order.cancel_id: None for order in gone})
            since = now if memory.asked_since is None else memory.asked_since
            memory.asked_since = since if gone else None
            if close and (not gone or now - since >= self._pace.cancel_patience):
                closes.append(close)
            queued = self._waits_for_the_open(ours, position)
            if memory.dust and position is not None and not of_symbol and symbol not in blocked:
                self.dust[symbol] = f"{abs(position.quantity):f} is dust: {memory.reason}"
            elif queued or self.overdue or now - memory.changed_at >= self._pace.stuck_after:
                stuck[symbol] = hindrance or self._why_stuck(memory, position, ours, others, queued)
        return list(cancels), closes, stuck

    def _forget(self, symbols: set[str], now: float) -> None:
        """Symbols that are not in the book any more; if one comes back, its closes go on being counted."""
        for symbol in symbols:
            memory = self._memory[symbol]
            memory.changed_at, memory.quantity, memory.rung, memory.refusals = now, ZERO, 0, 0
            memory.retry_at, memory.reason, memory.asked_since, memory.excess, memory.dust = 0.0, "", None, None, False
            memory.ended_at = now if memory.ended_at is None else memory.ended_at

    def _remember(self, symbol: str, position: Position | None, now: float) -> Memory:
        quantity = abs(position.quantity) if position else ZERO
        memory = self._memory.setdefault(symbol, Memory(changed_at=now, quantity=quantity))
        if quantity < memory.quantity:
            memory.changed_at, memory.refusals = now, 0
        elif quantity > memory.quantity:  # somebody's fill, also one that has turned it
            memory.changed_at = now
        memory.dust = memory.dust and quantity == memory.quantity
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
        rungs = self._ladder(position, memory)
        if not rungs or self._waits_for_the_open(ours, position):
            return []
        kind, _ = rungs[memory.rung % len(rungs)]
        longest = max(self._pace.escalate_after, self._pace.retry_backoff_max)
        patience = min(self._pace.escalate_after * 2 ** (memory.rung // len(rungs)), longest)
        if now - memory.sent_at < patience:
            return []
        memory.reason = f"a {kind} order of {ours[0].quantity:f} stood {patience:g} s without filling"
        memory.rung, memory.sent_at = memory.rung + 1, now
        return ours

    def _close(self, memory: Memory, position: Position, of_symbol: list[Order], kept: Decimal) -> Close | None:
        reducing = [order for order in of_symbol if order.side == position.closing_side]
        if any(order.by_amount or order.remaining <= ZERO for order in reducing):
            return None  # how much of the position an order for an amount of money may take is not known
        working = sum((order.remaining for order in reducing), ZERO)
        quantity = min(abs(position.quantity) - kept - working, position.available)
        if position.kind == "option":
            quantity = quantity.to_integral_value(rounding=ROUND_DOWN)
        rungs = self._ladder(position, memory)
        if quantity <= ZERO or not rungs:
            return None
        kind, collar = rungs[memory.rung % len(rungs)]
        if kind == "extended-hours limit" and memory.whole_units:
            quantity = quantity.to_integral_value(rounding=ROUND_DOWN)
        body: dict[str, Any] = {
            "symbol": position.symbol,
            "qty": f"{quantity:f}",
            "side": position.closing_side,
            "type": "market",
            "time_in_force": "gtc" if position.kind == "crypto" else "day",
            "client_order_id": self._client_order_id(position.symbol, memory.attempt + 1),
        }
        if collar and position.price is not None:
            body["type"], body["limit_price"] = "limit", f"{_limit(position, collar, memory.coarser):f}"
        if kind == "extended-hours limit":
            body["extended_hours"] = True
        return Close(position, quantity, body["client_order_id"], kind, body)

    def _ladder(self, position: Position, memory: Memory) -> list[tuple[str, Decimal]]:
        """The kinds of order to try in turn, each with how far past the last price it may go; none: not now.

        Alpaca: crypto trades round the clock; equities take limit orders for the day outside the session and let a
        market order wait for the open; options take neither. With the session unknown, what works in any comes first.
        """
        collars = self._pace.collars if position.price else ()
        limits = [("limit", collar) for collar in collars]
        market = self._market
        if position.kind == "crypto" or (market is not None and market.is_open):
            return [("market", ZERO), *limits]
        if position.kind == "option":
            return [] if market is not None else [*limits, ("market", ZERO)]
        whole = memory.whole_units and abs(position.quantity) < 1
        extended = [] if whole else [("extended-hours limit", collar) for collar in collars]
        return [*extended, ("market" if market is None else "queued", ZERO)]

    def _send(self, close: Close, read_at: float) -> None:
        memory = self._memory[close.position.symbol]
        # Asked twice, as looking up the last close may itself take long.
        if _is_old(read_at) or not self._may_close(memory, close) or _is_old(read_at):
            self._untried(memory)
            return
        about = {"symbol": close.position.symbol, "client_order_id": close.client_order_id}
        self._spool.record("POSITION_CLOSE_SENT", quantity=str(close.quantity), kind=close.kind, **about)
        outcome, reason = self._post(close)
        now = time.monotonic() - self._held_up
        if outcome in ("accepted", "duplicate"):
            memory.attempt, memory.sent_at = memory.attempt + 1, now
            memory.last_close, memory.sent_against, memory.ended_at = close.client_order_id, memory.quantity, None
        elif outcome == "not sent" or (outcome == "suspended" and self._lock is not None and self._lock.lift()):
            self._untried(memory)
        elif outcome in ("refused", "suspended"):
            fraction = _is_fraction(reason) and not memory.whole_units
            memory.whole_units = memory.whole_units or fraction
            coarser = _is_price_step(reason) and memory.coarser < COARSEST
            memory.coarser += coarser
            memory.dust = _is_minimum(reason) and close.quantity == memory.quantity
            self._refused(memory, reason, now, same_rung=fraction or coarser)
        elif outcome == "not authorized":
            # It comes now and then with good keys, and is no word about this order: it doesn't wait ever longer.
            memory.retry_at, memory.reason = now + self._pace.retry_backoff, reason
        elif outcome == "unknown":
            memory.last_close, memory.sent_against = close.client_order_id, memory.quantity
            memory.ended_at, memory.reason = None, reason
        ok = outcome in ("accepted", "duplicate")
        self._spool.record("POSITION_CLOSE_ANSWERED", "OK" if ok else "FAILED", outcome=outcome, reason=reason, **about)

    def _untried(self, memory: Memory) -> None:
        """A close could not be sent for want of time or requests: what was never tried is not stuck."""
        if memory.sent_at is None and not memory.refusals:
            memory.changed_at = time.monotonic() - self._held_up

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
        if status == 401:
            return "not authorized", f"the venue lets the keys read and refuses them this (401): {_message(body)}"
        return _refusal(body)

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

    def _refused(self, memory: Memory, reason: str, now: float, *, same_rung: bool = False) -> None:
        wait = min(self._pace.retry_backoff * 2**memory.refusals, self._pace.retry_backoff_max)
        memory.refusals, memory.retry_at = memory.refusals + 1, now + wait
        memory.rung, memory.reason = memory.rung + (0 if same_rung else 1), reason

    def _cancel(self, ids: list[str], book: Book) -> None:
        """In bulk only where nothing is to stay; by id for what survives a bulk request."""
        if not ids:
            return
        spared = {order.cancel_id for order in book.orders if order.status != "pending_cancel"} - {*ids}
        fresh = [order_id for order_id in ids if order_id not in self._in_bulk]
        if len(fresh) >= BULK_FROM and not spared:
            accepted, _ = self._cancel_all()
            self._in_bulk.update(ids)
            if accepted:
                return
        symbols: dict[str, set[str]] = {}
        for order in book.orders:  # of one with several legs each has its symbol
            symbols.setdefault(order.cancel_id, set()).add(order.symbol)
        self._in_bulk -= {*ids}  # the next round may try a bulk request again
        self._cancel_each(ids, symbols)

    def _cancel_each(self, ids: list[str], symbols: dict[str, set[str]] | None = None) -> tuple[int, int]:
        """How many cancels were accepted and refused; why not, is remembered of the symbol."""
        accepted, refusals = 0, []
        for order_id in ids:
            try:
                status, body = self._venue.request("DELETE", f"/orders/{order_id}")
            except Unavailable as error:
                self._note_trouble(error)
                break
            if status in (200, 204):
                accepted += 1
            elif status != 404 and not OVER.search(_message(body).lower()):
                refusals.append(f"{order_id}: {_message(body)}")
                for symbol in (symbols or {}).get(order_id, set()) & {*self._memory}:
                    self._memory[symbol].reason = f"the venue will not cancel order {order_id}: {_message(body)}"
        self._spool.record("ORDERS_CANCELED", asked=len(ids), accepted=accepted, refused=refusals[:50])
        return accepted, len(refusals)

    def _cancel_all(self) -> tuple[int, int]:
        """How many cancels were accepted and refused; 207 is not success but a status for each order."""
        try:
            status, body = self._venue.request("DELETE", "/orders")
        except Unavailable as error:
            self._note_trouble(error)
            return 0, 0
        if status in (401, 403):
            self._note_trouble(Refused(f"DELETE /orders: the venue refuses it ({status}): {_message(body)}"))
            return 0, 0
        items = body if isinstance(body, list) else []
        accepted = sum(1 for item in items if isinstance(item, dict) and item.get("status") in (200, 204))
        return accepted, len(items) - accepted

    def _read_market(self) -> None:
        """Without an answer it goes on by the last one, and after a minute as if none had ever come."""
        now = time.monotonic()
        if now - self._market_asked > MARKET_CLOCK_AGE:
            self._market_asked = now
            try:
                self._market, self._market_read = self._venue.market(), now
            except (Unavailable, Refused) as error:
                self._spool.record("VENUE_UNAVAILABLE", "FAILED", error=str(error))
        if now - self._market_read > MARKET_CLOCK_BELIEVED:
            self._market = None

    def _note_trouble(self, error: Exception) -> None:
        """Say it and go on; raises a refusal of the venue once it has persisted."""
        if isinstance(error, Refused):
            now = time.monotonic()
            self._refused_since = now if self._refused_since is None else self._refused_since
            if now - self._refused_since >= self._pace.refusal_patience:
                raise error
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

    def _waits_for_the_open(self, ours: list[Order], position: Position | None) -> bool:
        """Nothing more can be done before the instrument's session opens."""
        if position is None or self._market is None or self._market.is_open or position.kind == "crypto":
            return False
        return position.kind == "option" or any(order.type == "market" for order in ours)

    def _why_stuck(
        self, memory: Memory, position: Position | None, ours: list[Order], others: list[Order], queued: bool
    ) -> str:
        if queued:
            opens = f" at {self._market.next_open}" if self._market and self._market.next_open else ""
            if ours:
                return f"market closed; a market order for {ours[0].quantity:f} is queued for the open{opens}"
            return f"market closed; nothing can be queued for the open{opens}, when it is to be closed"
        if memory.reason:
            return memory.reason
        if others:
            count = len({order.cancel_id for order in others})
            return f"{count} orders are open at the venue ({others[-1].status}); look for an engine still trading"
        if ours:
            return "the venue accepted a close but has not filled it"
        if position is not None and position.available <= ZERO:
            return "the venue says that nothing of it is available, and lists no order that holds it; ask the venue"
        return "no close could be sent"


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
        record = credentials.spool.parent / "venue_locks" / f"{urllib.parse.quote(credentials.account, safe='')}.json"
        lock = VenueLock(venue, spool, record, asked=options.unlock)
        return _flatten(venue, spool, incident, credentials, options.reason, lock)
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


def _flatten(venue: Venue, spool: Spool, incident: str, credentials: Credentials, reason: str, lock: VenueLock) -> int:
    account = credentials.account
    say(f"■ {account} at {credentials.base_url}, incident {incident}. The breaker is NOT tripped by this.")
    spool.record("KILL_SWITCH_STARTED", account=account, reason=reason, by="emergency.py")
    flattening = Flattening(venue, spool, incident, credentials.pace, lock)
    flattening.sweep()
    stuck = flattening.until_flat()
    for symbol, why in sorted(flattening.dust.items()):
        say(f"  · dust   {account} {symbol}: {why}")
    if stuck:
        for symbol, why in sorted(stuck.items()):
            say(f"  ! stuck  {account} {symbol}: {why}")
        say(f"✗ NOT FLAT  after {flattening.elapsed:.1f} s. Deal with it at the venue, or run this again: it is safe.")
    else:
        spool.record("ACCOUNT_FLAT", account=account, after_seconds=round(flattening.elapsed, 3))
        say(f"✓ FLAT  {account}, watched until {flattening.elapsed:.1f} s")
    outcome = "FAILED" if stuck else "OK"
    spool.record("KILL_SWITCH_FINISHED", outcome, account=account, flat=not stuck, stuck=stuck, dust=flattening.dust)
    if spool.problem:
        say(f"  ! done without the spool: {spool.problem}; the lines above are the only record, keep them")
    say("next: `breaker trip`, if that has not been done; then: `breaker audit drain`")
    return NOT_FLAT if stuck else FLAT


def _confirmed(venue: Venue, credentials: Credentials) -> bool:
    try:
        book = venue.book()
        said = f"{len({order.cancel_id for order in book.orders})} open orders, {len(book.positions)} positions"
        say(f"{credentials.account} at {credentials.base_url}: {said}")
        for item in book.unreadable:
            say(f"  ! {item}")
    except (Unavailable, Refused) as error:
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
    parser.add_argument("--unlock", action="store_true", help="lift a suspension of trading that is in the way")
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


def read_orders(page: Any) -> tuple[list[Order], list[Unreadable]]:
    """The orders of one page, legs as orders of their own; an order with several legs is its legs."""
    orders: list[Order] = []
    lost: list[Unreadable] = []
    for body in _a_list(page):
        if not isinstance(body, dict):
            lost.append(Unreadable("order", "", "", f"{body!r:.60} is no order"))
            continue
        legs = [leg for leg in body.get("legs") or () if isinstance(leg, dict)]
        multi = body.get("order_class") == "mleg" and bool(legs)
        for item in legs if multi else (body, *legs):
            try:
                orders.append(read_order(item, body if multi else None))
            except SENSELESS as error:
                of = body if multi else item
                lost.append(Unreadable("order", _symbol_or_none(item), str(of.get("id") or ""), _problem(error)))
    return orders, lost


def read_order(body: dict[str, Any], parent: dict[str, Any] | None = None) -> Order:
    filled, quantity = _number(body.get("filled_qty") or "0"), body.get("qty")
    by_amount = quantity is None and body.get("notional") is not None
    if quantity is None and not by_amount:
        raise ValueError("it has neither a quantity nor an amount")
    if body["side"] not in SIDES:
        raise ValueError(f"its side is {body['side']!r:.40}")
    for name in ("limit_price", "stop_price"):
        if body.get(name) is not None:
            _number(body[name])
    of = parent or body
    return Order(
        id=_name(body, "id"),
        client_order_id=_name(of, "client_order_id") if of.get("client_order_id") else "",
        symbol=_symbol(body),
        side=SIDES[body["side"]],
        quantity=filled if by_amount else _number(quantity),
        filled=filled,
        status=of["status"],
        type=body.get("type") or body.get("order_type") or "limit",
        parent_id="" if parent is None else str(parent["id"]),
        by_amount=by_amount,
    )


def _name(body: dict[str, Any], of: str) -> str:
    name = body[of]
    if not isinstance(name, str) or not name:
        raise ValueError(f"its {of} is {name!r:.40}")
    return name


def read_positions(body: Any) -> tuple[list[Position], list[Unreadable]]:
    positions: list[Position] = []
    lost: list[Unreadable] = []
    for item in _a_list(body):
        try:
            positions.append(_position(item))
        except SENSELESS as error:
            symbol = _symbol_or_none(item) if isinstance(item, dict) else ""
            lost.append(Unreadable("position", symbol, "", _problem(error)))
    return positions, lost


def _position(body: dict[str, Any]) -> Position:
    quantity = _number(body["qty"])
    available, price = body.get("qty_available"), body.get("current_price")
    symbol = _symbol(body)
    return Position(
        symbol=symbol,
        quantity=-abs(quantity) if body.get("side") == "short" else quantity,
        available=abs(quantity if available is None else _number(available)),
        price=None if price is None else _number(price),
        kind=_kind(symbol, body.get("asset_class")),
    )


def _kind(symbol: str, asset_class: Any) -> str:
    if asset_class == "crypto":
        return "crypto"
    is_option = asset_class == "us_option" or (asset_class is None and OPTION.fullmatch(symbol.replace(" ", "")))
    return "option" if is_option else "equity"


def _symbol(body: dict[str, Any]) -> str:
    """Alpaca calls a pair `BTC/USD` in orders and `BTCUSD` in positions, and takes either in a request."""
    symbol = body["symbol"]
    if not isinstance(symbol, str) or not symbol:
        raise ValueError("it names no symbol")
    return symbol.replace("/", "").upper() if body.get("asset_class") == "crypto" else symbol


def _symbol_or_none(body: dict[str, Any]) -> str:
    try:
        return _symbol(body)
    except SENSELESS:
        return ""


def _a_list(answer: Any) -> list[Any]:
    if not isinstance(answer, list):
        raise Unavailable(f"the venue's answer can't be understood: {answer!r:.40} is no list")
    return answer


def _problem(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else f"{error}"


def protective_of(orders: list[Order], position: Position | None) -> list[Order]:
    """Stops and take-profits that can only reduce the position; none where together they are more than it.

    One that is being cancelled may fill too, but protects nothing any more.
    """
    if position is None:
        return []
    exits = [o for o in orders if o.side == position.closing_side and o.type != "market" and not o.by_amount]
    stops = sum((order.remaining for order in exits if order.type in STOPS), ZERO)
    targets = sum((order.remaining for order in exits if order.type not in STOPS), ZERO)
    if max(stops, targets) > abs(position.quantity):
        return []
    return [order for order in exits if order.status != "pending_cancel"]


def protective_orders(book: Book) -> list[Order]:
    held = {position.symbol: position for position in book.positions}
    return [
        order
        for symbol, position in held.items()
        for order in protective_of([order for order in book.orders if order.symbol == symbol], position)
    ]


def _underlying(symbol: str) -> str:
    match = OPTION.fullmatch(symbol.replace(" ", ""))
    return match[1] if match else symbol


def _right(symbol: str) -> str:
    """`C` for a call, `P` for a put, empty for anything else."""
    match = OPTION.fullmatch(symbol.replace(" ", ""))
    return match[2] if match else ""


def _covering(held: dict[str, Position], unreadable: list[Unreadable]) -> dict[str, tuple[Decimal, str]]:
    """How much of each position short options may need, and why it waits; see tasks/kill/cover.py."""
    shorts: dict[tuple[str, str], tuple[Decimal, str]] = {}
    for p in held.values():
        if _is_short_option(p):
            key = _underlying(p.symbol), _right(p.symbol)
            why = f"held back: the short {p.symbol} is bought back first, as it may be covered by this"
            shorts[key] = (shorts.get(key, (ZERO, ""))[0] + abs(p.quantity), why)
    for item in unreadable:
        if item.what == "position" and _right(item.symbol):
            why = f"held back: {item}, and may be a short option that is covered by this"
            shorts[_underlying(item.symbol), _right(item.symbol)] = (Decimal("Infinity"), why)
    covers = {}
    for symbol, p in held.items():
        right = _right(symbol) or ("C" if p.quantity > 0 else "P")
        short = shorts.get((_underlying(symbol), right))
        if short and not _is_short_option(p):
            covers[symbol] = (short[0] * (1 if _right(symbol) else 100), short[1])
    return covers


def _is_short_option(position: Position) -> bool:
    return position.kind == "option" and position.quantity < 0


def _is_minimum(reason: str) -> bool:
    words = reason.lower()
    return bool(BELOW_MINIMUM.search(words))


def _is_fraction(reason: str) -> bool:
    """Fractions can't be traded by this kind of order, or not now; that they can't be sold short is something else."""
    return "fraction" in reason.lower() and "sold short" not in reason.lower()


def _is_price_step(reason: str) -> bool:
    words = reason.lower()
    return "pricing criteria" in words or ("price" in words and "increment" in words)


def _refusal(body: Any) -> tuple[str, str]:
    """`duplicate`, `suspended` or `refused`, and why, with who holds the quantity where the venue names it."""
    message = _message(body)
    if "client_order_id must be unique" in message:
        return "duplicate", message
    related = body.get("related_orders") if isinstance(body, dict) else None
    if related or "insufficient qty available" in message.lower():
        held_by = ", ".join(str(item) for item in (related or ())[:3])
        return "refused", f"{message}; held by orders {held_by or 'that it does not name'}"
    if "user request" in message.lower() or "suspended" in message.lower():
        lifts = "lift suspend_trade in its configuration, or run this again with --unlock"
        return "suspended", f"{message}; trading is suspended in the account: {lifts}"
    if "is blocked" in message.lower():
        return "refused", f"{message}; the venue has blocked the account: only the venue's support lifts that"
    return "refused", message


def _number(value: Any) -> Decimal:
    try:
        number = Decimal(str(value))
    except ArithmeticError:
        raise ValueError(f"{value!r:.40} is not a number") from None
    if not number.is_finite():
        raise ValueError(f"{value!r:.40} is not a number")
    return number


def _limit(position: Position, collar: Decimal, coarser: int = 0) -> Decimal:
    """The last price worsened by `collar`, in whole price steps, so often tenfold."""
    assert position.price is not None  # noqa: S101  the ladder has no limit without it
    buying = position.closing_side == "buy"
    target = position.price * (1 + collar * (1 if buying else -1))
    tick = _tick(position, target).scaleb(coarser)
    steps = (target / tick).to_integral_value(rounding=ROUND_UP if buying else ROUND_DOWN)
    return max(steps, Decimal(1)) * tick


def _tick(position: Position, price: Decimal) -> Decimal:
    """An equity has a cent from a dollar up, else a hundredth of one; an option a cent; crypto four digits."""
    if position.kind == "crypto":
        return max(Decimal(1).scaleb(price.adjusted() - 3), Decimal("0.000000001"))
    return Decimal("0.0001") if position.kind == "equity" and price < 1 else Decimal("0.01")


def _newest(page: list[Any]) -> str:
    """From where the next page starts: a little before the last time stamp that can be read."""
    for body in reversed(page):
        try:
            return _a_little_before(body.get("submitted_at") or body["created_at"])
        except SENSELESS:
            continue
    return ""


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
