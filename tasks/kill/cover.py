"""Tell how much of each position may be what covers a short option, which is bought back first. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from breaker.instruments import AssetClass, right_of, underlying_of
from breaker.orders import ZERO, Position, PositionKey, Unreadable

SHARES_OF_A_CONTRACT = 100


@dataclass(frozen=True, slots=True)
class Cover:
    """What is held back of one position, and why."""

    quantity: Decimal
    why: str


NOTHING = Cover(ZERO, "")


def covering(held: Mapping[PositionKey, Position], unreadable: Sequence[Unreadable]) -> dict[PositionKey, Cover]:
    """What short options may need of each position: calls of long calls and shares, puts of long puts and short shares.

    Each position keeps enough for all of them by itself, as it is for the venue to say what is set against what. An
    option that can't be read may be a short one, of any size.
    """
    shorts = _shorts(held, unreadable)
    covers = {}
    for key, position in held.items():
        symbol = position.symbol
        right = right_of(symbol) or ("C" if position.quantity > 0 else "P")
        short = shorts.get((underlying_of(symbol), right))
        if short and not _is_short_option(position):
            units = 1 if right_of(symbol) else SHARES_OF_A_CONTRACT
            covers[key] = replace(short, quantity=short.quantity * units)
    return covers


def _shorts(held: Mapping[PositionKey, Position], unreadable: Sequence[Unreadable]) -> dict[tuple[str, str], Cover]:
    """Contracts that are sold short, by underlying and right."""
    shorts: dict[tuple[str, str], Cover] = {}
    for position in held.values():
        if _is_short_option(position):
            key = underlying_of(position.symbol), right_of(position.symbol)
            quantity = shorts.get(key, NOTHING).quantity + abs(position.quantity)
            why = f"held back: the short {position.symbol} is bought back first, as it may be covered by this"
            shorts[key] = Cover(quantity, why)
    for item in unreadable:
        if item.what == "position" and right_of(item.symbol):
            why = f"held back: {item}, and may be a short option that is covered by this"
            shorts[underlying_of(item.symbol), right_of(item.symbol)] = Cover(Decimal("Infinity"), why)
    return shorts


def _is_short_option(position: Position) -> bool:
    return position.instrument.asset_class is AssetClass.OPTION and position.quantity < 0
