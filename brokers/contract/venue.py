"""Describe the venue that the contract suite needs: one that can be filled, brought into trouble, and looked into."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from breaker.orders import PositionKey, PositionSide, Side
from brokers.protocol import Broker


class Trouble(StrEnum):
    """What becomes of a request."""

    LOST_ANSWER = "lost answer"
    """It is carried out, and the connection ends without an answer."""
    NO_ANSWER = "no answer"
    """Nothing is done, and nothing is ever said."""
    UNAVAILABLE = "unavailable"
    """Nothing is done, and the venue says that it can't now (503 or the like)."""
    RATE_LIMIT = "rate limit"
    """Nothing is done, as there were too many requests (429 or the like)."""


class Call(StrEnum):
    """What is asked of a venue, by whatever requests."""

    ORDERS = "list orders"
    POSITIONS = "list positions"
    ACCOUNT = "tell of the account"
    CLOCK = "tell the time"
    CANCEL = "cancel one order"
    CANCEL_ALL = "cancel all orders"
    CLOSE = "send an order"
    LOOK_UP = "look an order up"
    EVERYTHING = "everything"


class Keys(StrEnum):
    """Which keys a broker is opened with."""

    GOOD = "good"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Held:
    """A position to begin with. `quantity` is signed; `side` in hedge mode only."""

    symbol: str
    quantity: Decimal
    side: PositionSide | None = None

    @property
    def key(self) -> PositionKey:
        """What the position is known by."""
        return PositionKey(self.symbol, self.side)


@dataclass(frozen=True, slots=True)
class Resting:
    """A limit order to begin with, so far from the market that it does not fill."""

    symbol: str
    side: Side
    quantity: Decimal
    position_side: PositionSide | None = None
    unreadable: bool = False
    """The venue's list tells of it in a way that can't be understood."""
    resisting: bool = False
    """The venue refuses to cancel it."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """The book that a venue starts over with."""

    positions: Sequence[Held] = ()
    orders: Sequence[Resting] = ()
    unreadable_position: str = ""
    """A symbol of `positions` whose position the venue's list tells of in a way that can't be understood."""
    fills: bool = True
    """Market orders fill at once; else they stay open."""
    clock_ahead: timedelta = timedelta(0)
    """How far the venue's clock is ahead of this host's; less than nothing where it is behind."""
    keys_may_trade: bool = True
    """Else the good keys may only read: the venue refuses each cancel and each order."""


def position(venue: VenueUnderTest, number: int, units: int) -> Held:
    """So many units of the venue's symbol of that number; less than none are short."""
    side = PositionSide.LONG if units > 0 else PositionSide.SHORT
    return Held(venue.symbols[number], units * venue.unit, side if venue.hedge_mode else None)


def order(
    venue: VenueUnderTest, number: int, units: int, side: Side, *, unreadable: bool = False, resisting: bool = False
) -> Resting:
    """One for so many units, of the long position where there are two."""
    leg = PositionSide.LONG if venue.hedge_mode else None
    return Resting(venue.symbols[number], side, units * venue.unit, leg, unreadable, resisting)


class VenueUnderTest(Protocol):
    """One venue with one account, and the adapter that is to be checked against it."""

    symbols: Sequence[str]
    """Three at least that can be traded now, spelled as the adapter's positions have them."""
    unit: Decimal
    """A quantity of each of them that an order may have; so may each multiple up to 100."""
    hedge_mode: bool
    """Whether the account can hold a long and a short position in one symbol."""
    shorts: bool
    """Whether a position can be short."""
    sets_clock: bool
    """Whether its clock can be set apart from the host's (`Beginning.clock_ahead`)."""
    has_read_only_keys: bool
    """Whether the account's keys can be such that may only read (`Beginning.keys_may_trade`)."""
    tells_rights: bool
    """Whether it tells without an order that they may not trade."""
    troubles: Collection[Trouble]
    """Those that it can be brought into."""
    secret: str
    """The secret half of the keys: no message may contain it."""

    def start(self, beginning: Beginning) -> None:
        """Start over with this book, without any trouble, and with nothing counted.

        A venue that can't make an order resist leaves that one out.
        """
        ...

    def bring_into(self, trouble: Trouble, call: Call, *, times: int | None = None, skip: int = 0) -> None:
        """The next `times` requests of that kind (None: all) get into trouble, after `skip` others of them."""
        ...

    def broker(self, *, timeout: float, keys: Keys = Keys.GOOD) -> Broker:
        """The adapter's broker for the account, which waits at most `timeout` seconds for one answer."""
        ...

    def holds(self) -> Mapping[str, Decimal]:
        """By the key of each position that is not zero (`breaker.orders.PositionKey`), what the venue has, signed."""
        ...

    def open_orders(self) -> int:
        """How many orders are open at the venue."""
        ...

    def received(self, call: Call) -> int:
        """How many requests of that kind have come since the start."""
        ...

    def stop(self) -> None:
        """The suite is over."""
        ...
