"""Follow an order from its entry into the book to its end, and notice when the book becomes flat."""

from __future__ import annotations

from collections.abc import Callable

from sandbox.exchange.book import Book
from sandbox.exchange.event_queue import EventQueue
from sandbox.exchange.orders import PaperOrder, PaperPosition, Status
from sandbox.exchange.venue_record import VenueRecord


class LifeCycle:
    """What begins and ends orders. `on_cancelled` gets each cancelled order, `on_flat` each time the book is flat."""

    def __init__(
        self,
        book: Book,
        events: EventQueue,
        record: VenueRecord,
        *,
        on_cancelled: Callable[[PaperOrder], None],
        on_flat: Callable[[], None],
    ) -> None:
        self._book = book
        self._events = events
        self._record = record
        self._on_cancelled = on_cancelled
        self._on_flat = on_flat
        self._was_flat = False

    def begin(self, order: PaperOrder) -> None:
        """Take an order and its legs into the book."""
        self._book.add_order(order)
        self._was_flat = False
        self._record.orders_created[order.origin] += 1
        self.note_protection(order.position_name)

    def add_position(self, position: PaperPosition) -> None:
        """A position held since before the exchange started."""
        self._book.positions[position.name] = position
        self._was_flat = False
        self.note_protection(position.name)

    def end(self, order: PaperOrder, status: Status) -> None:
        """End an order that did not fill, and what depends on it."""
        if not order.is_open:
            return
        now = self._events.now
        if status is Status.CANCELED:
            order.canceled_at = now
        elif status is Status.EXPIRED:
            order.expired_at = now
        elif status is Status.REJECTED:
            order.failed_at = now
        self.close(order, status)
        for leg in order.joint_legs:
            self.end(leg, status)
        waiting = [leg for leg in order.legs if leg.status in {Status.HELD, Status.PENDING_CANCEL}]
        for dependent in (order.sibling, *waiting):
            if dependent:
                self.end(dependent, Status.CANCELED)
        if status is Status.CANCELED:
            self._on_cancelled(order)
        self.settle()

    def close(self, order: PaperOrder, status: Status) -> None:
        """Take the order out of those that work, and leave alone what depends on it."""
        order.status = status
        order.updated_at = self._events.now
        self._book.close_order(order)
        self.note_protection(order.position_name)
        if not self._book.open_orders:
            self._record.no_open_orders(self._events.now)

    def note_protection(self, name: str) -> None:
        """The position of this name, or an order for it, has changed."""
        orders = self._book.open_orders_for(name)
        self._record.protection.note(self._events.now, name, self._book.position_qty(name), orders)

    def settle(self) -> None:
        """Note when the book becomes flat."""
        flat = self._book.is_flat
        if flat and not self._was_flat:
            self._record.became_flat(self._events.now)
            self._on_flat()
        self._was_flat = flat
