"""Tell whether a short option would be left without what covers it. Pure.

A short call is covered by a long call or by a hundred shares of the same underlying, a short put by a long put or by a
hundred shares sold short. Strikes and expiries are left aside: it is only asked whether something stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import ROUND_DOWN, Decimal

from breaker.orders import ZERO
from sandbox.exchange.assets import contract_of
from sandbox.exchange.book import Book


def uncovered_by(book: Book, changes: Mapping[str, Decimal]) -> str:
    """The short option that would lose its cover by these changes of positions; empty when none would.

    Working orders that take from a position count as filled.
    """
    written_on = {contract.underlying for symbol in (*book.positions, *changes) if (contract := contract_of(symbol))}
    for underlying, is_call in sorted(_touched(changes)):
        if underlying not in written_on:
            continue
        short = next((symbol for symbol, qty in _options(book, underlying, is_call, changes) if qty < 0), "")
        before, after = (_uncovered(book, underlying, is_call, each) for each in ({}, changes))
        if after > max(before, ZERO):
            return short
    return ""


def _touched(symbols: Iterable[str]) -> set[tuple[str, bool]]:
    touched: set[tuple[str, bool]] = set()
    for symbol in symbols:
        contract = contract_of(symbol)
        rights = (contract.is_call,) if contract else (True, False)
        touched |= {(contract.underlying if contract else symbol, is_call) for is_call in rights}
    return touched


def _uncovered(book: Book, underlying: str, is_call: bool, changes: Mapping[str, Decimal]) -> Decimal:
    """How many contracts stand alone; below zero, how many more could be covered."""
    contracts = [qty for _, qty in _options(book, underlying, is_call, changes)]
    shares = _left_of(book, underlying, changes) * (1 if is_call else -1)
    lots = (max(shares, ZERO) / 100).to_integral_value(rounding=ROUND_DOWN)
    return -sum(contracts, ZERO) - lots


def _options(
    book: Book, underlying: str, is_call: bool, changes: Mapping[str, Decimal]
) -> Iterator[tuple[str, Decimal]]:
    for symbol in sorted({*book.positions, *changes}):
        contract = contract_of(symbol)
        if contract and contract.underlying == underlying and contract.is_call is is_call:
            yield symbol, _left_of(book, symbol, changes)


def _left_of(book: Book, symbol: str, changes: Mapping[str, Decimal]) -> Decimal:
    """The position with the changes, less what working orders take from it; a short option may not be bought back."""
    qty = book.position_qty(symbol)
    position = book.positions.get(symbol)
    if position is not None and not (qty < 0 and contract_of(symbol)):
        qty += position.closing_side.sign * book.held(symbol, position.closing_side)
    return qty + changes.get(symbol, ZERO)
