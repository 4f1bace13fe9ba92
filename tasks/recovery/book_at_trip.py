"""List every order and position that a kill switch found, from what the ledger keeps of its first readings. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from brokers.sweep import row_key
from ledger.record import AuditRow
from tasks.markdown import inert

BOOK_ACTIONS = ("FIRST_SWEEP", "SNAPSHOT_TAKEN")


def book_at_trip(rows: Sequence[AuditRow]) -> list[str]:
    """As Markdown: each order and position as the first reading that shows it had it; `rows` are oldest first.

    An order that was cancelled before it could be read is there by the venue's id alone. The incident's own closes are
    none of the book.
    """
    if not rows:
        return ["No kill switch of this incident is on record."]
    orders: dict[tuple[str, str], Mapping[str, Any]] = {}
    positions: dict[tuple[str, str], Mapping[str, Any]] = {}
    unseen: dict[tuple[str, str], None] = {}
    for row in rows:
        account = str(row.details.get("account", ""))
        found = row.details.get("book") or row.details
        for order in _rows(found, "orders"):
            if not str(order.get("client_order_id", "")).startswith(row.incident_id or "\0"):
                orders.setdefault((account, str(order.get("id"))), order)
        for position in _rows(found, "positions"):
            key = row_key(position)
            positions.setdefault((account, key), {**position, "symbol": key})
        unseen.update({(account, str(order_id)): None for order_id in row.details.get("unseen") or ()})
    lines = [*_orders(orders), "", *_positions(positions)]
    missed = [
        f"{inert(order_id)} ({inert(account)})" for account, order_id in unseen if (account, order_id) not in orders
    ]
    if missed:
        lines += ["", f"Cancelled before they could be read, by the venue's ids: {', '.join(sorted(missed))}."]
    return lines


def _rows(found: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    listed = found.get(name)
    yield from (row for row in listed if isinstance(row, Mapping)) if isinstance(listed, list) else ()


def _orders(orders: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    if not orders:
        return ["No order was open."]
    names = ("symbol", "side", "quantity", "filled", "type", "limit_price", "stop_price", "client_order_id")
    titles = ("symbol", "side", "quantity", "filled", "type", "limit", "stop", "client order id")
    return [f"{len(orders)} orders were open:", "", *_table(orders, names, titles)]


def _positions(positions: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    if not positions:
        return ["No position was held."]
    names, titles = ("symbol", "quantity", "average_price", "price"), ("symbol", "quantity", "entered at", "market")
    return [f"{len(positions)} positions were held:", "", *_table(positions, names, titles)]


def _table(
    rows: Mapping[tuple[str, str], Mapping[str, Any]], names: Sequence[str], titles: Sequence[str]
) -> Iterator[str]:
    yield f"| account | {' | '.join(titles)} |"
    yield "| --- " * (len(titles) + 1) + "|"
    for (account, _), row in rows.items():
        yield f"| {inert(account)} | {' | '.join(inert(row.get(name)) for name in names)} |"
