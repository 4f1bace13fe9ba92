"""Remember the book that a run found, and what came of it: what the cost of the exit is measured against.

Each order and each position is kept as the first reading that shows it had it. The readings are those that cancelling
and closing make anyway; nothing is asked for this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from breaker.orders import ZERO, Order, Position, PositionKey, Unreadable
from brokers.protocol import CloseOutcome, CloseResult
from brokers.sweep import row_key
from tasks.kill.memory import attempt_of

_MAY_EXIST = frozenset({CloseOutcome.ACCEPTED, CloseOutcome.DUPLICATE, CloseOutcome.UNKNOWN})


@dataclass(frozen=True, slots=True)
class OpeningPosition:
    """A position as the first reading after the trip that shows it had it."""

    symbol: str
    """Its key: in hedge mode the side stands behind the symbol."""
    quantity: Decimal
    """Signed: long is positive."""
    average_price: Decimal | None
    """What it was entered at, per unit; None where the venue doesn't say."""
    reference: Decimal | None
    """The market's price per unit in that reading; None where the venue gives none."""
    multiplier: Decimal = Decimal(1)
    inverse: bool = False
    """Each contract is `multiplier` of money, and what it gains are coins."""
    read_after: float = 0.0
    """Seconds from the start of the run."""


@dataclass(slots=True)
class OpeningBook:
    """One account's book as one run of the kill switch found it."""

    positions: dict[str, OpeningPosition] = field(default_factory=dict)
    quantities: dict[str, Decimal | None] = field(default_factory=dict)
    """Of every position that was ever held: what the latest reading says; None where it can't be read."""
    filled: dict[str, Decimal] = field(default_factory=dict)
    """Of every order that was ever listed as open, by the venue's id: what had filled of it when it was first read."""
    sent: set[str] = field(default_factory=set)
    """The venue's ids of the closes that this run sent."""
    incident: set[str] = field(default_factory=set)
    """The venue's ids of other closes of the incident: another run sent them."""
    unnamed: dict[str, str] = field(default_factory=dict)
    """Client order ids, with their symbols, of closes that the venue has, or may have, under an id not known yet."""

    def note_orders(self, orders: Iterable[Order], incident_id: str) -> None:
        """A reading of the open orders."""
        for order in orders:
            self.filled.setdefault(order.id, order.filled_quantity)
            if attempt_of(order, incident_id) is not None and order.id not in self.sent:
                self.incident.add(order.id)

    def note_positions(self, positions: Iterable[Position], unreadable: Iterable[Unreadable], after: float) -> None:
        """A complete reading of the positions, `after` seconds from the start of the run."""
        now: dict[str, Decimal] = {position.key: position.quantity for position in positions}
        unread = {item.symbol for item in unreadable if item.what == "position"}
        for position in positions:
            self.positions.setdefault(position.key, _opening(position, after))
        for key in {*self.positions, *now, *unread} - {""}:
            lost = PositionKey.read(key).symbol in unread or (key not in now and "" in unread)
            self.quantities[key] = None if lost else now.get(key, ZERO)

    def note_sweep(
        self, orders: Iterable[Mapping[str, Any]], positions: Iterable[Mapping[str, Any]], after: float
    ) -> None:
        """What the first sweep saw, in the rows that it keeps."""
        for row in orders:
            self.filled.setdefault(row["id"], Decimal(row["filled"]))
        for row in positions:
            found = OpeningPosition(
                symbol=row_key(row),
                quantity=Decimal(row["quantity"]),
                average_price=_number(row["average_price"]),
                reference=_number(row["price"]),
                multiplier=Decimal(row["multiplier"]),
                inverse=row.get("inverse") is True,
                read_after=after,
            )
            self.positions.setdefault(found.symbol, found)
            self.quantities.setdefault(found.symbol, found.quantity)

    def note_close(self, result: CloseResult, client_order_id: str) -> None:
        """A close that was sent, and how it was answered."""
        if result.order is not None:
            self.sent.add(result.order.id)
        elif result.outcome in _MAY_EXIST and client_order_id:
            self.unnamed[client_order_id] = result.symbol


def _opening(position: Position, after: float) -> OpeningPosition:
    return OpeningPosition(
        symbol=position.key,
        quantity=position.quantity,
        average_price=position.average_entry_price or None,
        reference=position.market_price,
        multiplier=position.instrument.multiplier,
        inverse=position.instrument.inverse,
        read_after=after,
    )


def _number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
