"""Work out what an exit cost: each fill against the market's price when the position was first read. Pure.

Slippage is what a fill cost beyond that price: selling below it is a cost, buying above it is one, and a negative cost
is a gain. The profit or loss that a fill realised is counted at the average price of what was held. What has not been
read is None, never zero, and is counted as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum

from breaker.instruments import canonical_symbol
from breaker.orders import ZERO, Fill, Side
from tasks.kill.opening_book import OpeningBook, OpeningPosition

BASIS_POINTS = Decimal(10_000)
_HUNDREDTH = Decimal("0.01")
_INFINITE = Decimal("Infinity")
_FINEST = Decimal("1e-9")
"""An average price may not come out even; what is counted with it is kept to so much of a unit of money."""


class Origin(StrEnum):
    """Whose order a fill came of."""

    CLOSE = "close"
    """A close of the incident."""
    RACED = "filled while being cancelled"
    """An order that was there, or came, and was asked to go."""
    OTHER = "by another order"
    """An order that no reading has shown: it came and filled between two of them, or somebody else closed by hand."""


@dataclass(frozen=True, slots=True)
class PricedFill:
    """One execution of the incident. Money is in the account's currency."""

    at: datetime
    symbol: str
    """The key of its position: in hedge mode the side stands behind the symbol."""
    side: Side
    quantity: Decimal
    price: Decimal
    origin: Origin
    order_id: str
    slippage: Decimal | None = None
    realised: Decimal | None = None
    fee: Decimal | None = None


@dataclass(frozen=True, slots=True)
class CostLine:
    """The fills of one position, side and origin together."""

    symbol: str
    """The key of the position."""
    side: Side
    origin: Origin
    fills: int
    quantity: Decimal
    average_price: Decimal
    reference: Decimal | None
    """The market's price when the position was first read after the trip; None where it was not read."""
    slippage: Decimal | None
    """A positive one is a cost."""
    basis_points: Decimal | None
    """The slippage as a share of the value at the reference price."""
    realised: Decimal | None
    """The profit, or as a negative number the loss, before fees."""
    fees: Decimal | None
    """None where the venue gives none, or not of each fill."""


@dataclass(frozen=True, slots=True)
class CostSum:
    """What some fills cost together, as far as it is known: a part that is not known is in none of these numbers."""

    fills: int = 0
    slippage: Decimal | None = None
    basis_points: Decimal | None = None
    """The slippage as a share of `value`."""
    value: Decimal | None = None
    """At the reference prices."""
    realised: Decimal | None = None
    fees: Decimal | None = None
    with_fee: int = 0
    """How many of the fills the venue gives a fee for, in something that has a price here."""


@dataclass(frozen=True, slots=True)
class ExitCost:
    """What the exit of one account cost."""

    account: str
    currency: str = ""
    """Empty where the venue did not tell."""
    lines: tuple[CostLine, ...] = ()
    fills: tuple[PricedFill, ...] = field(default=(), repr=False)
    closed: int = 0
    """Positions that were closed, wholly or in part."""
    priced: int = 0
    """Of these, how many have a reference price and fills that make up all of the change."""
    closes: CostSum = CostSum()
    """Of the closes: what the exit cost."""
    beside: CostSum = CostSum()
    """Of the fills of other orders, which nobody asked for."""
    first_reference: float | None = None
    last_reference: float | None = None
    """Seconds from the start of the run until the first and the last of the reference prices were read."""
    problem: str = ""
    """Why the fills were not read, or not all of them; empty where nothing is missing."""
    lines_left_out: int = 0
    """How many are not in `lines` for want of room; the sums have them."""

    @property
    def whole(self) -> bool:
        """Whether nothing of slippage and profit or loss is missing."""
        known = all(line.slippage is not None and line.realised is not None for line in self.lines)
        return not self.problem and self.priced == self.closed and known

    @property
    def nothing_filled(self) -> bool:
        """Whether it is known that nothing was closed and nothing else filled."""
        return not self.problem and not self.lines and not self.closed


def exit_cost(account: str, currency: str, book: OpeningBook, fills: Iterable[Fill], began: datetime) -> ExitCost:
    """What these fills of an account cost, of those that belong to the exit that `began` then."""
    counted = _counted(book, fills, began)
    unexplained = _unexplained(book, counted)
    priced_fills: list[PricedFill] = []
    lines: list[CostLine] = []
    for symbol, own in sorted(counted.items()):
        opening = book.positions.get(symbol)
        priced = _priced(own, opening, None if symbol in unexplained else book.quantities.get(symbol, ZERO), currency)
        priced_fills += priced
        lines += _lines(priced, opening)
    closed = _closed(book, counted)
    openings = [opening for symbol in closed if (opening := book.positions.get(symbol))]
    read_after = [opening.read_after for opening in openings if opening.reference is not None]
    return ExitCost(
        account=account,
        currency=currency,
        lines=tuple(lines),
        fills=tuple(sorted(priced_fills, key=lambda fill: fill.at)),
        closed=len(closed),
        priced=sum(opening.reference is not None and opening.symbol not in unexplained for opening in openings),
        closes=_sum([fill for fill in priced_fills if fill.origin is Origin.CLOSE], book),
        beside=_sum([fill for fill in priced_fills if fill.origin is not Origin.CLOSE], book),
        first_reference=min(read_after, default=None),
        last_reference=max(read_after, default=None),
    )


def unexplained(book: OpeningBook, fills: Iterable[Fill], began: datetime) -> frozenset[str]:
    """Symbols whose position has changed by something else than these fills: the venue has not told all of them yet."""
    return frozenset(s for s in _unexplained(book, _counted(book, fills, began)) if _now(book, s) is not None)


def without_fills(cost: ExitCost, most_lines: int) -> ExitCost:
    """The same without single fills, and with the dearest lines only, and those without a price: for little room."""

    def worth_showing(number: int) -> Decimal:
        slippage = cost.lines[number].slippage
        return _INFINITE if slippage is None else abs(slippage)

    by_cost = sorted(range(len(cost.lines)), key=worth_showing, reverse=True)
    dearest = tuple(cost.lines[number] for number in sorted(by_cost[:most_lines]))
    return replace(cost, fills=(), lines=dearest, lines_left_out=len(cost.lines) - len(dearest))


def _counted(book: OpeningBook, fills: Iterable[Fill], began: datetime) -> dict[str, list[tuple[Fill, Origin]]]:
    """Those that belong to the exit, by position, in the order in which they happened."""
    counted: dict[str, list[tuple[Fill, Origin]]] = {}
    for fill in sorted(fills, key=lambda each: each.at):
        if (origin := _origin(fill, book, began)) is not None:
            counted.setdefault(fill.key, []).append((fill, origin))
    return counted


def _origin(fill: Fill, book: OpeningBook, began: datetime) -> Origin | None:
    """None for one that was there before the exit began.

    Of an order that was read its own count says that, so that the venue's clock need not agree with ours.
    """
    if fill.order_id in book.sent:
        return Origin.CLOSE
    since = fill.at >= began
    if fill.order_id in book.incident:
        return Origin.CLOSE if since else None
    if (before := book.filled.get(fill.order_id)) is not None:
        if fill.cumulative_quantity is not None:
            since = fill.cumulative_quantity > before
        return Origin.RACED if since else None
    return Origin.OTHER if since else None


def _unexplained(book: OpeningBook, counted: Mapping[str, Sequence[tuple[Fill, Origin]]]) -> frozenset[str]:
    def explained(symbol: str) -> bool:
        fills = [fill for fill, _ in counted.get(symbol, ())]
        return _before_opening(fills, book.positions.get(symbol), _now(book, symbol)) is not None

    return frozenset(symbol for symbol in {*counted, *book.positions} if not explained(symbol))


def _now(book: OpeningBook, symbol: str) -> Decimal | None:
    return book.quantities.get(symbol, ZERO)


def _before_opening(fills: Sequence[Fill], opening: OpeningPosition | None, now: Decimal | None) -> int | None:
    """How many of the fills happened before the position was first read; None where no number explains what is held.

    Our clock and the venue's may differ, so that it is told by quantity: what is left of the fills makes the position
    of the opening into that of now.
    """
    if now is None:
        return None
    change = now - (opening.quantity if opening else ZERO)
    left = sum((_change(fill) for fill in fills), ZERO)
    for count in range(len(fills) + 1):
        if left == change:
            return count
        if count < len(fills):
            left -= _change(fills[count])
    return None


def _change(fill: Fill) -> Decimal:
    """What it does to the position. A fee that is taken in what is traded makes that smaller; of contracts none is."""
    fee = fill.fee if fill.fee is not None and _in_base(fill) and ":" not in fill.symbol else ZERO
    return fill.side.sign * fill.quantity - fee


def _in_base(fill: Fill) -> bool:
    """Whether the fee is in what is traded, as it is of a purchase of crypto (Alpaca, crypto fees)."""
    return bool(fill.fee_currency) and canonical_symbol(fill.symbol).startswith(canonical_symbol(fill.fee_currency))


def _fee(fill: Fill, currency: str) -> Decimal | None:
    """In the account's currency; None where it is not given, or in something that no price is known of."""
    if fill.fee is None or fill.fee_currency in ("", currency):
        return fill.fee
    return fill.fee * fill.price if _in_base(fill) else None


@dataclass(frozen=True, slots=True)
class _Held:
    quantity: Decimal
    average: Decimal | None


def _priced(
    fills: Sequence[tuple[Fill, Origin]], opening: OpeningPosition | None, now: Decimal | None, currency: str
) -> list[PricedFill]:
    """The fills of one position with their cost; with no profit or loss where `now` is None, as fills are missing."""
    early = _before_opening([fill for fill, _ in fills], opening, now)
    held: _Held | None = None
    if opening is not None and early is not None:
        held = _Held(opening.quantity, opening.average_price)
        for fill, _ in reversed(fills[:early]):
            held = _undone(held, fill, opening.inverse)
    priced: list[PricedFill] = []
    for fill, origin in fills:
        realised = None
        if held is not None and opening is not None:
            held, gain = _done(held, fill, opening.inverse)
            realised = None if gain is None else _even(gain * opening.multiplier)
        priced.append(
            PricedFill(
                at=fill.at,
                symbol=fill.key,
                side=fill.side,
                quantity=fill.quantity,
                price=fill.price,
                origin=origin,
                order_id=fill.order_id,
                slippage=_slippage(fill, opening),
                realised=realised,
                fee=_fee(fill, currency),
            )
        )
    return priced


def _slippage(fill: Fill, opening: OpeningPosition | None) -> Decimal | None:
    if opening is None or opening.reference is None:
        return None
    moved = _moved(opening.reference, fill.price, opening.inverse)
    return fill.side.sign * moved * fill.quantity * opening.multiplier


def _moved(since: Decimal, price: Decimal, inverse: bool) -> Decimal:
    """What one unit of the multiplier gained in money as the price went from one to the other.

    A unit of an inverse contract is one of money: so much of a coin at the first price, which is then worth the other.
    """
    if inverse:
        return (price - since) / since if since else ZERO
    return price - since


def _mean(one: Decimal, of_one: Decimal, other: Decimal, of_other: Decimal, inverse: bool) -> Decimal | None:
    """The price of two quantities together, one of them negative where it is taken out; None where that is none.

    Inverse ones go by their coins.
    """
    if not inverse:
        return (one * of_one + other * of_other) / (of_one + of_other)
    coins = of_one / one + of_other / other if one and other else ZERO
    return (of_one + of_other) / coins if coins else None


def _done(held: _Held, fill: Fill, inverse: bool) -> tuple[_Held, Decimal | None]:
    """What is held after the fill, and what that realised per unit of the multiplier; None where it is not known."""
    change = _change(fill)
    after = held.quantity + change
    if held.quantity * change >= 0:
        if not held.quantity:
            return _Held(after, fill.price), ZERO
        if held.average is None or not after:
            return _Held(after, None), ZERO
        return _Held(after, _mean(held.average, held.quantity, fill.price, change, inverse)), ZERO
    reduced = min(abs(held.quantity), abs(change)).copy_sign(held.quantity)
    gain = None if held.average is None else _moved(held.average, fill.price, inverse) * reduced
    return _Held(after, fill.price if held.quantity * after < 0 else held.average), gain


def _undone(held: _Held, fill: Fill, inverse: bool) -> _Held:
    """What was held before the fill; its average price is None where that can't be told any more."""
    change = _change(fill)
    before = held.quantity - change
    if before * held.quantity < 0 or not held.quantity or not before:
        return _Held(before, None)
    if before * change < 0 or held.average is None:
        return _Held(before, held.average)
    return _Held(before, _mean(held.average, held.quantity, fill.price, -change, inverse))


def _lines(fills: Sequence[PricedFill], opening: OpeningPosition | None) -> list[CostLine]:
    together: dict[tuple[Origin, Side], list[PricedFill]] = {}
    for fill in fills:
        together.setdefault((fill.origin, fill.side), []).append(fill)
    return [_line(own, opening) for _, own in sorted(together.items(), key=lambda item: [*Origin].index(item[0][0]))]


def _line(fills: Sequence[PricedFill], opening: OpeningPosition | None) -> CostLine:
    first = fills[0]
    quantity = sum((fill.quantity for fill in fills), ZERO)
    slippage = _complete_sum(fills, lambda fill: fill.slippage)
    return CostLine(
        symbol=first.symbol,
        side=first.side,
        origin=first.origin,
        fills=len(fills),
        quantity=quantity,
        average_price=_even(_average(fills, opening is not None and opening.inverse)),
        reference=opening.reference if opening else None,
        slippage=slippage,
        basis_points=_share(slippage, _value(quantity, opening)),
        realised=_complete_sum(fills, lambda fill: fill.realised),
        fees=_complete_sum(fills, lambda fill: fill.fee),
    )


def _average(fills: Sequence[PricedFill], inverse: bool) -> Decimal:
    quantity = sum((fill.quantity for fill in fills), ZERO)
    if inverse:
        coins = sum((fill.quantity / fill.price for fill in fills if fill.price), ZERO)
        return quantity / coins if coins else ZERO
    return sum((fill.quantity * fill.price for fill in fills), ZERO) / (quantity or 1)


def _closed(book: OpeningBook, counted: Mapping[str, Sequence[tuple[Fill, Origin]]]) -> frozenset[str]:
    """Symbols of which something was closed: by our closes, or as the readings tell."""
    by_close = {symbol for symbol, own in counted.items() if any(origin is Origin.CLOSE for _, origin in own)}
    changed = {
        symbol
        for symbol, opening in book.positions.items()
        if (now := _now(book, symbol)) is not None and now != opening.quantity
    }
    return frozenset(by_close | changed)


def _sum(fills: Sequence[PricedFill], book: OpeningBook) -> CostSum:
    slippage = _known_sum(fill.slippage for fill in fills)
    value = _known_sum(_value(fill.quantity, book.positions.get(fill.symbol)) for fill in fills)
    return CostSum(
        fills=len(fills),
        slippage=slippage,
        basis_points=_share(slippage, value),
        value=value,
        realised=_known_sum(fill.realised for fill in fills),
        fees=_known_sum(fill.fee for fill in fills),
        with_fee=sum(fill.fee is not None for fill in fills),
    )


def _value(quantity: Decimal, opening: OpeningPosition | None) -> Decimal | None:
    """At the reference price."""
    if opening is None or opening.reference is None:
        return None
    return quantity * opening.multiplier * (1 if opening.inverse else opening.reference)


def _even(value: Decimal) -> Decimal:
    return value.quantize(_FINEST, ROUND_HALF_EVEN).normalize()


def _share(cost: Decimal | None, value: Decimal | None) -> Decimal | None:
    """In basis points, to a hundredth of one."""
    return None if cost is None or not value else (cost / value * BASIS_POINTS).quantize(_HUNDREDTH, ROUND_HALF_EVEN)


def _known_sum(parts: Iterable[Decimal | None]) -> Decimal | None:
    """Of those that are known; None where none is."""
    known = [part for part in parts if part is not None]
    return sum(known, ZERO) if known else None


def _complete_sum(fills: Sequence[PricedFill], part: Callable[[PricedFill], Decimal | None]) -> Decimal | None:
    """None where one of them is not known."""
    parts = [part(fill) for fill in fills]
    return None if None in parts else _known_sum(parts)
