"""Find orders and executions by what a request says of them, and cancel one; alike in both APIs."""

from __future__ import annotations

from collections.abc import Iterable

from sandbox.exchange.binance import errors
from sandbox.exchange.binance.answers import milliseconds
from sandbox.exchange.binance.endpoints import until_cancelled
from sandbox.exchange.binance.parameters import Parameters, limit
from sandbox.exchange.orders import Fill, PaperOrder, Status
from sandbox.exchange.refusal import Refusal
from sandbox.exchange.venue import Venue


def find(
    venue: Venue,
    parameters: Parameters,
    symbol: str,
    *,
    by_id: str = "orderId",
    by_client_id: str = "origClientOrderId",
) -> PaperOrder | None:
    """The symbol's order of this id, or the latest of this client order id; None when there is none.

    Raises `BinanceRefusal` when neither is given.
    """
    book = venue.exchange.book
    order_id, client_order_id = parameters.text(by_id), parameters.text(by_client_id)
    if order_id is None and client_order_id is None:
        raise errors.one_is_needed(by_client_id, by_id)
    order = None
    if order_id is not None:
        order = book.orders.get(order_id)
    elif client_order_id is not None and book.knows_client_order_id(client_order_id):
        order = book.order_by_client_id(client_order_id)
    return order if order is not None and order.symbol == symbol else None


def order_ids(parameters: Parameters) -> list[str]:
    """The ids or client order ids of a batch, in the spelling of the documentation or in that of clients."""
    for name in ("orderIdList", "orderidlist", "origClientOrderIdList", "origclientorderidlist"):
        if found := parameters.items(name):
            return found
    raise errors.one_is_needed("orderIdList", "origClientOrderIdList")


async def cancel(venue: Venue, order: PaperOrder) -> None:
    """Cancel it, and wait until it is. Raises `BinanceRefusal` when it can't be cancelled, or fills on the way."""
    try:
        venue.exchange.cancel(order.id)
    except Refusal as refusal:
        raise errors.unknown_order() from refusal
    await until_cancelled(venue, [order])
    if order.status is not Status.CANCELED:
        raise errors.unknown_order()


def closed_too(venue: Venue, parameters: Parameters, symbol: str) -> list[PaperOrder]:
    """The symbol's orders of these times and from this id on, the oldest first."""
    first = parameters.integer("orderId")
    return [
        order
        for order in venue.exchange.book.orders.values()
        if order.symbol == symbol
        and (first is None or int(order.id) >= first)
        and is_within(parameters, milliseconds(venue, order.submitted_at))
    ]


def one_page(venue: Venue, parameters: Parameters, symbol: str, *, usual: int, most: int) -> Iterable[tuple[int, Fill]]:
    """The symbol's executions with their numbers, the oldest first: from an id on, of a time, or else the latest."""
    order_id, first = parameters.text("orderId"), parameters.integer("fromId")
    found = [
        (number, fill)
        for number, fill in enumerate(venue.exchange.book.fills)
        if fill.symbol == symbol
        and order_id in {None, fill.order_id}
        and (first is None or number + 1 >= first)
        and is_within(parameters, milliseconds(venue, fill.at))
    ]
    size = limit(parameters, usual, most)
    from_the_start = first is not None or parameters.text("startTime") is not None
    return found[:size] if from_the_start else found[-size:]


def is_within(parameters: Parameters, at: int) -> bool:
    """Whether Unix time `at`, in milliseconds, is one that is asked for."""
    earliest, latest = parameters.integer("startTime"), parameters.integer("endTime")
    return (earliest is None or at >= earliest) and (latest is None or at <= latest)
