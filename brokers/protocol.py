"""Define what kill switch and monitor ask of a venue, and how a venue's answers and failures are told apart.

The distinction that matters most is between *refused* (the venue answered no, nothing happened) and *unknown* (no
answer came, it may have happened). An unknown outcome is looked up, never repeated blindly.
"""

from __future__ import annotations

import asyncio
import string
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Generic, Protocol, TypeVar, runtime_checkable

from breaker.instruments import Instrument
from breaker.orders import (
    Account,
    Fill,
    MarketClock,
    Order,
    OrderType,
    Position,
    PositionKey,
    PositionSide,
    Side,
    TimeInForce,
    Unreadable,
)

_Item_co = TypeVar("_Item_co", covariant=True)

repeat_until: ContextVar[float] = ContextVar("repeat_until", default=float("inf"))
"""When whoever asks wants to hear what is the matter: an adapter repeats no request after it. By `time.monotonic()`."""
BROKEN_OFF = "its adapter broke off a request, as when its connection is closed; whether it was done is not known"


def is_interrupted() -> bool:
    """Whether a CancelledError means this task, and not only a request that an adapter or its library has ended."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


SHORTEST_CLIENT_ORDER_ID = 18
"""Characters: eleven at least of a digest of incident and position, a hyphen, and six digits of the attempt."""


@dataclass(frozen=True, slots=True)
class ClientOrderIds:
    """What a venue takes as a client order id. The kill switch makes its own of incident, position and attempt.

    Attributes:
        longest: Most characters; 0 where the venue knows no client order ids at all.
        alphabet: Every character allowed; the ten digits are among them.
        unique: Whether the venue itself refuses a second order with the same one. Where it doesn't, or knows none, a
            close whose answer was lost is settled by the venue's open orders and fills before another is sent.

    Raises ValueError for what no client order id can be made of: say that the venue knows none.
    """

    longest: int
    alphabet: str
    unique: bool = True

    def __post_init__(self) -> None:
        if self.longest and (self.longest < SHORTEST_CLIENT_ORDER_ID or not {*string.digits} <= {*self.alphabet}):
            raise ValueError(
                f"client order ids of at most {self.longest} characters of {self.alphabet!r:.80}: they need "
                f"{SHORTEST_CLIENT_ORDER_ID} characters and the ten digits; say longest=0 where there are fewer"
            )

    @property
    def settles(self) -> bool:
        """Whether sending the same one again can't make a second order."""
        return self.longest > 0 and self.unique


ALPACA_IDS = ClientOrderIds(128, string.ascii_letters + string.digits + string.punctuation + " ")
"""Alpaca, orders: at most 128 characters, of which kinds it doesn't say."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What one request of each kind counts against `Capabilities.requests_per_minute`."""

    open_orders: int = 1
    """One page."""
    positions: int = 1
    cancel: int = 1
    cancel_all: int = 1
    cancel_many: int = 1
    close: int = 1


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this venue can do; the kill switch asks instead of assuming."""

    bulk_cancel: bool
    bulk_close: bool
    """One request closes every position, each at most to zero."""
    reduce_only: bool
    """An order can be marked so that the venue itself never lets it cross zero."""
    fractional: bool
    requests_per_minute: int | None
    page_size: int
    """Most orders in one answer: 1,200 open orders cost three requests at 500 a page."""
    fills: bool = False
    """Executions are listed, so that what an exit cost can be told."""
    suspends_trading: bool = False
    """The account has a setting by which the venue refuses its new orders until that is lifted."""
    transfers: bool = False
    """Money that was moved in or out is listed, so that it can be told from a gain or a loss."""
    quotes: bool = False
    """When a symbol was last quoted can be asked, so that silence of the market's data is noticed."""
    market_orders: bool = True
    """Else a close is a limit order at a price that the market takes, a collar beyond the last one."""
    native_close: bool = False
    """One request closes one position, at most to zero, whatever else is at work (`CloseOrder.native`)."""
    batch_cancel: int = 0
    """Most orders that one request cancels by their ids (`cancel_many`); 0: they are cancelled one by one."""
    client_order_ids: ClientOrderIds = ALPACA_IDS
    looks_up_orders: bool = True
    """An order can be found by its client order id, open or closed."""
    conditional_apart: bool = False
    """Conditional orders are listed and cancelled by calls of their own. The adapter makes them: nobody else asks."""
    extended_hours: bool = True
    """Limit orders are taken before and after the session."""
    safety_net: bool = False
    """The venue has a dead-man timer that cancels when it is no longer renewed."""
    weights: Weights = Weights()
    not_covered: str = ""
    """What of the same login is neither read, cancelled nor closed through this account, in words; empty: nothing."""


@dataclass(frozen=True, slots=True)
class Listed(Generic[_Item_co]):
    """What a venue lists of one kind: the items that can be read, and those that can't, each named."""

    items: tuple[_Item_co, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()

    def __iter__(self) -> Iterator[_Item_co]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items) + len(self.unreadable)


class CancelOutcome(StrEnum):
    ACCEPTED = "accepted"
    """The venue took the cancel; the order is gone only when the venue no longer lists it."""
    NOT_OPEN = "not_open"
    """The order had already filled, expired or been cancelled."""
    REFUSED = "refused"
    """The venue will not cancel it now (pending replace, for one); `reason` is the venue's."""
    UNKNOWN = "unknown"
    """No answer came in time; it may or may not have been cancelled."""


@dataclass(frozen=True, slots=True)
class CancelResult:
    order_id: str
    outcome: CancelOutcome
    reason: str = ""
    only_in_bulk: bool = False
    """Refused by its id, whoever of ours asks; a request for all orders takes it."""


@dataclass(frozen=True, slots=True)
class CloseOrder:
    """An order that reduces one position.

    `client_order_id` makes it unique where the venue refuses a second one with it. It fits `ClientOrderIds`, and is
    sent wherever the venue knows such ids.
    """

    symbol: str
    side: Side
    quantity: Decimal
    client_order_id: str
    type: OrderType = OrderType.MARKET
    limit_price: Decimal | None = None
    time_in_force: TimeInForce = TimeInForce.DAY
    extended_hours: bool = False
    position_side: PositionSide | None = None
    """Which of the symbol's two positions is closed, in hedge mode; None where the account nets."""
    reduce_only: bool = False
    """The venue is to let it reduce the position and do nothing else: set where `capabilities.reduce_only`."""
    native: bool = False
    """By the venue's own request that closes a position: only where `capabilities.native_close`, and all of it."""

    @property
    def key(self) -> PositionKey:
        """The position that it closes."""
        return PositionKey(self.symbol, self.position_side)


class Refusal(StrEnum):
    """Why a venue refused a close, as far as its answer tells."""

    OTHER = "other"
    BELOW_MINIMUM = "below_minimum"
    """Less than the venue lets anybody trade: what is left is dust."""
    FRACTION = "fraction"
    """Fractions can't be traded by this kind of order, or not now; whole units may be."""
    PRICE_STEP = "price_step"
    """The limit price is not in whole steps of the venue's."""
    HELD = "held"
    """Other orders hold the quantity; the reason names them."""
    SUSPENDED = "suspended"
    """Trading is suspended for the whole account."""
    NOTHING_LEFT = "nothing_left"
    """The venue says that there is no such position (any more): nothing is to be reduced."""


class CloseOutcome(StrEnum):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    """An order with this client order id exists: ours from before, or another kill switch's. Look it up."""
    REFUSED = "refused"
    """The venue said no and nothing was sent; `reason` is the venue's own, `code` its code."""
    UNKNOWN = "unknown"
    """No answer came and the look-up by client order id failed too."""


@dataclass(frozen=True, slots=True)
class CloseResult:
    symbol: str
    outcome: CloseOutcome
    order: Order | None = None
    reason: str = ""
    code: str = ""
    refusal: Refusal = Refusal.OTHER


class TransferKind(StrEnum):
    """Why money was moved in or out of an account without a trade."""

    DEPOSIT = "deposit"
    WITHDRAWAL = "withdrawal"
    JOURNAL = "journal"
    """Between two accounts at the same venue."""
    DIVIDEND = "dividend"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money moved in (positive) or out (negative) of an account, in its currency."""

    id: str
    """The venue's, unique within the account."""
    amount: Decimal
    at: datetime
    """When the venue booked it, UTC-aware."""
    kind: TransferKind
    by_day: bool = False
    """The venue tells no more of it than the day, of which `at` is the beginning."""


@dataclass(frozen=True, slots=True)
class SafetyNet:
    """A dead-man timer at the venue, which cancels orders when nobody renews it.

    Attributes:
        armed_until: When it fires unless it is renewed, UTC-aware; None when it is not armed.
        covers: The symbols whose orders it cancels; empty: those of the whole account.
        verified: Whether the venue's own answer said so, and not only we.
        fired_at: When it last fired, UTC-aware; None when it didn't, or the venue doesn't tell.
        detail: What it does not cover, in words.
    """

    armed_until: datetime | None
    covers: tuple[str, ...] = ()
    verified: bool = False
    fired_at: datetime | None = None
    detail: str = ""


@runtime_checkable
class Broker(Protocol):
    """One account at one venue. Every method has a deadline of its own; one that can't answer raises `BrokerError`.

    A cancel or a close never waits behind a reading. An adapter that derives from this class need not write what its
    capabilities say that the venue can't do.
    """

    name: str
    """The account's name in the configuration, as people know it."""
    capabilities: Capabilities

    @abstractmethod
    async def account(self) -> Account:
        """The account as the venue has it now."""
        ...

    @abstractmethod
    async def clock(self) -> MarketClock:
        """The venue's own time and session."""
        ...

    @abstractmethod
    async def open_orders(self) -> Listed[Order]:
        """Every open order of the account, every page, conditional ones too, legs as orders of their own.

        Where the venue has several lists, one that can't be had may be `unreadable`, as an order without symbol or id:
        nothing is flat beside it, and what is in the others can be cancelled. The same goes for positions.
        """
        ...

    @abstractmethod
    async def positions(self) -> Listed[Position]:
        """Every position of the account, spelled as its orders are; in hedge mode each leg as one of its own."""
        ...

    @abstractmethod
    async def order(self, client_order_id: str, symbol: str | None = None) -> Order | None:
        """The order with this client order id, open or closed; None when the venue knows none.

        `symbol` is what it was sent for, where whoever asks knows it: many a venue finds an order only with its symbol.
        Where not `capabilities.looks_up_orders` the adapter looks through what the venue lists, as far as that goes.
        """
        ...

    @abstractmethod
    async def cancel_all(self) -> Sequence[CancelResult]:
        """Ask for every open order's cancellation in one request where the venue can; a result for each item."""
        ...

    @abstractmethod
    async def cancel(self, order_id: str) -> CancelResult:
        """Ask for one order's cancellation by the venue's id."""
        ...

    @abstractmethod
    async def close(self, request: CloseOrder) -> CloseResult:
        """Send it once. Where the answer is lost it is looked up, and never sent again.

        Raises `BrokerUnavailable` only where it is certain that nothing was taken, as by a rate limit.
        """
        ...

    async def cancel_many(self, order_ids: Sequence[str]) -> Sequence[CancelResult]:
        """Cancel these in one request (only where `capabilities.batch_cancel`, and so many); a result for each."""
        raise NotOffered(f"{self.name}: this venue cancels orders one by one", account=self.name)

    async def close_all(self) -> Sequence[CloseResult]:
        """Close every position in one request (only where `capabilities.bulk_close`); a result for each item."""
        raise NotOffered(f"{self.name}: this venue closes positions one by one", account=self.name)

    async def instruments(self, symbols: Collection[str]) -> Mapping[str, Instrument]:
        """What the venue says of these symbols; one that it doesn't know is left out. Never needed for a close."""
        return {}

    async def fills(self, since: datetime) -> Listed[Fill]:
        """Every execution of the account since then, every page, oldest first (only where `capabilities.fills`).

        Asked when everything else is done; before that only where a lost answer can't be settled otherwise
        (`ClientOrderIds.settles`).
        """
        raise NotOffered(f"{self.name}: this venue lists no fills", account=self.name)

    async def transfers(self, since: datetime) -> Listed[Transfer]:
        """Every transfer booked since then, every page, oldest first (only where `capabilities.transfers`).

        One may be listed again, under the same id; where the venue tells only days, those of the day before come too.
        """
        raise NotOffered(f"{self.name}: this venue lists no transfers", account=self.name)

    async def latest_quote(self, symbol: str) -> datetime:
        """When the symbol was last quoted, UTC-aware (only where `capabilities.quotes`)."""
        raise NotOffered(f"{self.name}: this venue does not say when {symbol} was last quoted", account=self.name)

    async def set_trading_suspended(self, suspended: bool) -> None:
        """Engage or lift the account's own setting (only where `capabilities.suspends_trading`).

        Whether it has taken effect is for `account().trading_suspended` to say.
        """
        raise NotOffered(f"{self.name}: this venue has no lock of the account's own", account=self.name)

    async def arm_safety_net(self, timeout: timedelta) -> SafetyNet:
        """Arm the venue's timer, or renew it, to fire after `timeout` (only where `capabilities.safety_net`)."""
        raise NotOffered(f"{self.name}: this venue has no timer that cancels orders", account=self.name)

    async def disarm_safety_net(self) -> None:
        """Take the venue's timer away, so that it will not fire (only where `capabilities.safety_net`)."""
        raise NotOffered(f"{self.name}: this venue has no timer that cancels orders", account=self.name)

    async def safety_net(self) -> SafetyNet:
        """The timer as the venue tells it, as far as it tells. Not armed where there is none."""
        return SafetyNet(None, detail="this venue has no timer that cancels orders")

    async def not_permitted(self) -> Sequence[str]:
        """What a kill switch needs and these keys may not do, each in words, asked without placing an order.

        Empty where the venue refuses nothing, or doesn't tell before an order is sent.
        """
        return ()

    @abstractmethod
    async def aclose(self) -> None:
        """Release connections."""
        ...


class BrokerError(Exception):
    """A venue could not be asked or could not answer. The message is one line: what, which account, what to do."""

    def __init__(self, message: str, *, account: str) -> None:
        super().__init__(message)
        self.account = account


class BrokerUnavailable(BrokerError):
    """Refused, timed out, reset, rate limited past its deadline or 5xx: worth trying again."""


class BrokerRefused(BrokerError):
    """The venue answered no: wrong keys, account blocked, unknown endpoint. Believed only when it persists."""


class NotOffered(BrokerRefused):
    """This venue has nothing of the kind: the capabilities said so, and who asks has not looked."""
