"""Define what kill switch and monitor ask of a venue, and how a venue's answers and failures are told apart.

The distinction that matters most is between *refused* (the venue answered no, nothing happened) and *unknown* (no
answer came, it may have happened). An unknown outcome is looked up, never repeated blindly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Generic, Protocol, TypeVar, runtime_checkable

from breaker.orders import Account, Fill, MarketClock, Order, OrderType, Position, Side, TimeInForce, Unreadable

_Item_co = TypeVar("_Item_co", covariant=True)

repeat_until: ContextVar[float] = ContextVar("repeat_until", default=float("inf"))
"""When whoever asks wants to hear what is the matter: an adapter repeats no request after it. By `time.monotonic()`."""


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


@dataclass(frozen=True, slots=True)
class CloseOrder:
    """An order that reduces one position. `client_order_id` makes it unique: the venue refuses a second one with it."""

    symbol: str
    side: Side
    quantity: Decimal
    client_order_id: str
    type: OrderType = OrderType.MARKET
    limit_price: Decimal | None = None
    time_in_force: TimeInForce = TimeInForce.DAY
    extended_hours: bool = False


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


@runtime_checkable
class Broker(Protocol):
    """One account at one venue. Every method has a deadline of its own; one that can't answer raises `BrokerError`."""

    name: str
    """The account's name in the configuration, as people know it."""
    capabilities: Capabilities

    async def account(self) -> Account: ...

    async def clock(self) -> MarketClock: ...

    async def open_orders(self) -> Listed[Order]:
        """Every open order of the account, every page, legs as orders of their own."""
        ...

    async def positions(self) -> Listed[Position]: ...

    async def order(self, client_order_id: str) -> Order | None:
        """The order with this client order id, open or closed; None when the venue knows none."""
        ...

    async def cancel_all(self) -> Sequence[CancelResult]:
        """Ask for every open order's cancellation in one request where the venue can; a result for each item."""
        ...

    async def cancel(self, order_id: str) -> CancelResult: ...

    async def close(self, request: CloseOrder) -> CloseResult: ...

    async def close_all(self) -> Sequence[CloseResult]:
        """Close every position in one request (only where `capabilities.bulk_close`); a result for each item."""
        ...

    async def fills(self, since: datetime) -> Listed[Fill]:
        """Every execution of the account since then, every page, oldest first (only where `capabilities.fills`).

        Asked when everything else is done: nothing that closes a position waits for it or decides by it.
        """
        ...

    async def transfers(self, since: datetime) -> Listed[Transfer]:
        """Every transfer booked since then, every page, oldest first (only where `capabilities.transfers`).

        One may be listed again, under the same id; where the venue tells only days, those of the day before come too.
        """
        ...

    async def latest_quote(self, symbol: str) -> datetime:
        """When the symbol was last quoted, UTC-aware (only where `capabilities.quotes`)."""
        ...

    async def set_trading_suspended(self, suspended: bool) -> None:
        """Engage or lift the account's own setting (only where `capabilities.suspends_trading`).

        Whether it has taken effect is for `account().trading_suspended` to say.
        """
        ...

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
