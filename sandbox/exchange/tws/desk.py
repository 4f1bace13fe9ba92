"""Know what the exchange's orders are called in the TWS API, and whose they are."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Final

from sandbox.exchange.book import Book
from sandbox.exchange.futures_forex_assets import ODD_LOT_BELOW
from sandbox.exchange.orders import Origin, PaperOrder, PaperPosition, Status
from sandbox.exchange.tws import messages
from sandbox.exchange.tws.contracts import PaperContract, contract_for, hours
from sandbox.exchange.tws.messages import COMBINATION, Leg, Message, OrderName
from sandbox.exchange.tws_settings import TwsRefusal
from sandbox.exchange.venue import Venue

_FIRST_PERM_ID: Final = 1_800_000_001


class Desk:
    """One venue's orders by the names that TWS gives them, for as long as the venue lasts."""

    def __init__(self, venue: Venue) -> None:
        self.venue = venue
        self.settings = venue.scenario.tws
        self._perm_ids = itertools.count(_FIRST_PERM_ID)
        self._names: dict[str, OrderName] = {}
        self._by_client: dict[tuple[int, int], PaperOrder] = {}
        self._elsewhere: set[str] = set()
        """Orders sent through another TWS."""
        self._next: dict[int, int] = {}
        self._by_hand_left, self._other_login_left = self.settings.by_hand, self.settings.other_login
        self.set_aside: list[str] = []
        """Clients' orders that are over at the venue, and listed as open and inactive."""
        self._stuck: set[str] = set()
        self._refused: Counter[int] = Counter()
        self._bound = 0
        self._remembered: Book | None = None
        self.auto_bind = False
        """Whether orders that are placed by hand from now on are client 0's (`reqAutoOpenOrders`)."""
        self.open_orders()  # those of the beginning have their names from it

    # The connection to the venue's servers

    @property
    def is_lost(self) -> bool:
        return self._remembered is not None

    @property
    def book(self) -> Book:
        """As TWS knows it: as it was when the venue was lost, until that is back."""
        return self._remembered or self.venue.exchange.book

    def lose_venue(self) -> None:
        """From now on TWS answers from what it knows."""
        if self._remembered is None:
            self._remembered = deepcopy(self.venue.exchange.book)

    def find_venue(self) -> None:
        """It is back, and TWS knows everything again."""
        self._remembered = None

    @property
    def account(self) -> str:
        """Whose the exchange's book is."""
        return self.settings.accounts[0]

    def next_order_id(self, client_id: int) -> int:
        """The least that this client may use: above each that it has used."""
        return self._next.get(client_id, 1)

    def name(self, order: PaperOrder) -> OrderName:
        """What the order is called. One that no client of the API has sent is the engine's, or was placed by hand."""
        known = self._names.get(order.id)
        if known is None:
            by_hand = order.origin is Origin.VENUE or self._takes_by_hand(order)
            client_id = 0 if by_hand else self.settings.engine_client
            order_id = 0 if by_hand else self.next_order_id(client_id)
            known = self.give_name(order, client_id, order_id)
            if by_hand and self.auto_bind:
                known = self._bind(order, known)
            elif not by_hand and order.origin is Origin.BOOK and self._other_login_left > 0:
                self._other_login_left -= 1
                self._elsewhere.add(order.id)
                del self._by_client[client_id, order_id]
        return known

    def _takes_by_hand(self, order: PaperOrder) -> bool:
        takes = self._by_hand_left > 0 and order.parent is None and order.origin is Origin.BOOK
        self._by_hand_left -= takes
        return takes

    def give_name(self, order: PaperOrder, client_id: int, order_id: int) -> OrderName:
        """The order is this client's under that id."""
        parent = order.parent
        parent_id = self.name(parent).order_id if parent is not None and parent.is_open else 0
        name = self._names[order.id] = OrderName(client_id, order_id, next(self._perm_ids), parent_id)
        if order_id:
            self._by_client[client_id, order_id] = order
            self._next[client_id] = max(self.next_order_id(client_id), order_id + 1)
        return name

    def rename(self, old: PaperOrder, new: PaperOrder) -> None:
        """An order was changed: at the exchange it is another one, here the same."""
        name = self._names[new.id] = self.name(old)
        self._by_client[name.client_id, name.order_id] = new

    def bind_orders(self) -> None:
        """Orders placed by hand, or through another TWS, are client 0's from now on (its `reqOpenOrders`)."""
        for order in self.open_orders():
            name = self.name(order)
            if not name.order_id or order.id in self._elsewhere:
                self._elsewhere.discard(order.id)
                self._bind(order, name)

    def _bind(self, order: PaperOrder, name: OrderName) -> OrderName:
        self._bound += 1
        order_id = -self._bound if self.settings.negative_ids else self.next_order_id(0)
        bound = self._names[order.id] = OrderName(0, order_id, name.perm_id, name.parent_id)
        self._by_client[0, order_id] = order
        self._next[0] = max(self.next_order_id(0), order_id + 1)
        return bound

    def order_of(self, client_id: int, order_id: int) -> PaperOrder | None:
        return self._by_client.get((client_id, order_id))

    def open_orders(self) -> list[PaperOrder]:
        """Legs that go with their order are told in it."""
        for order in self.book.open_orders.values():
            self.name(order)
        listed = [order for order in self.book.open_orders.values() if not order.goes_with_parent]
        return listed + [self.book.orders[order_id] for order_id in self.set_aside]

    def completed_orders(self) -> list[PaperOrder]:
        listed = self.book.orders.values()
        over = (order for order in listed if not order.is_open and not order.goes_with_parent)
        return [order for order in over if order.id not in self.set_aside]

    def at(self, seconds: float) -> datetime:
        """A moment of the exchange's clock as people's clocks have it."""
        return self.venue.opened_at + timedelta(seconds=seconds / self.venue.scenario.time_scale)

    def word(self, order: PaperOrder) -> str:
        """The order's status, in TWS's words."""
        if order.id in self.set_aside:
            return "Inactive"
        waits = order.id in self._stuck and order.is_open and order.status is not Status.PENDING_CANCEL
        return "PendingSubmit" if waits else messages.status_word(order)

    def refusal(self) -> TwsRefusal | None:
        """The scenario's next one; it counts as used."""
        for number, refusal in enumerate(self.settings.refusals):
            if self._refused[number] < refusal.first:
                self._refused[number] += 1
                return refusal
        return None

    def keep_from_the_venue(self, order: PaperOrder) -> None:
        """Set a client's new order aside, or let it be stuck, if the scenario wants that of one more."""
        if len(self.set_aside) < self.settings.inactive:
            order.stalled = True
            self.set_aside.append(order.id)
            self.venue.exchange.release(order, Status.CANCELED)
        elif len(self._stuck) < self.settings.stuck:
            order.stalled = True
            self._stuck.add(order.id)

    def notices(self, order: PaperOrder, contract: PaperContract) -> list[tuple[int, str]]:
        """What TWS says, as an error, of an order that it has taken all the same."""
        said = [(code, "Order Message: it is taken all the same.") for code in self.settings.notices]
        what = f"Order Message:\n{order.side.value.upper()} {order.qty:f} {contract.local_symbol}\nWarning: "
        if contract.kind == "CASH" and order.qty < ODD_LOT_BELOW:
            least = f"{contract.symbol} {ODD_LOT_BELOW:f}"
            said.append(
                (
                    399,
                    f"{what}Your order size is below the {least} IdealPro minimum and goes as an odd lot order.",
                )
            )
        if order.status is Status.ACCEPTED:
            said.append((399, f"{what}Your order will not be placed at the exchange until its market opens."))
        return said

    # Messages

    def contract(self, symbol: str) -> PaperContract:
        return contract_for(self.book.asset(symbol)) if symbol else COMBINATION

    def _of_order(self, order: PaperOrder) -> tuple[PaperContract, list[Leg]]:
        legs = [Leg(self.contract(leg.symbol), leg.ratio or leg.qty, leg.side) for leg in order.joint_legs]
        return (COMBINATION if legs else self.contract(order.symbol)), legs

    def open_order(self, order: PaperOrder) -> Message:
        contract, legs = self._of_order(order)
        return messages.open_order(order, self.name(order), contract, self.account, legs, self.word(order))

    def order_status(self, order: PaperOrder) -> Message:
        return messages.order_status(order, self.name(order), self.word(order))

    def completed_order(self, order: PaperOrder) -> Message:
        contract, legs = self._of_order(order)
        at = self.at(order.updated_at)
        return messages.completed_order(order, self.name(order), contract, self.account, legs, at)

    def executions(self, request_id: int | str, numbers: Iterable[int]) -> list[Message]:
        """Each with its commission behind it."""
        book = self.book
        told: list[Message] = []
        for number in numbers:
            fill = book.fills[number]
            order = book.orders[fill.order_id]
            whole = order.parent if order.parent is not None and order.goes_with_parent else order
            told.append(
                messages.execution(
                    request_id,
                    fill,
                    number,
                    self.name(whole),
                    self.contract(fill.symbol),
                    account=self.account,
                    order_ref=whole.client_order_id,
                    at=self.at(fill.at),
                )
            )
            told.append(messages.commission(number, fill, "USD"))
        return told

    def position(self, held: PaperPosition) -> Message:
        return messages.position(held, self.contract(held.symbol), self.account)

    def portfolio(self) -> list[Message]:
        book = self.book
        return [
            messages.portfolio(held, self.contract(held.symbol), book.prices[held.symbol], self.account)
            for held in book.positions.values()
            if not held.unreadable
        ]

    def hours(self, symbol: str) -> tuple[str, str]:
        exchange, market = self.venue.exchange, self.venue.scenario.market
        opens_at = market.next_open
        if market.opens_after is not None and market.opens_after > exchange.now:
            opens_at = self.at(market.opens_after)
        asset_class = exchange.book.asset(symbol).asset_class
        return hours(datetime.now(UTC), exchange.matching.session, opens_at, asset_class)

    def values(self) -> list[tuple[str, str, str]]:
        """The account in figures: tag, value, currency."""
        book = self.book
        held = sum(abs(book.value(p.symbol, p.qty)) for p in book.positions.values())
        figures = {
            "NetLiquidation": book.equity,
            "TotalCashValue": book.cash,
            "BuyingPower": book.buying_power,
            "GrossPositionValue": held,
            "InitMarginReq": held / 2,
            "MaintMarginReq": held / 4,
        }
        return [("AccountType", "INDIVIDUAL", ""), *((tag, f"{value:.2f}", "USD") for tag, value in figures.items())]
