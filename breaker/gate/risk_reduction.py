"""Tell whether what is asked only reduces risk, which is all that a halted breaker still lets through.

A position is signed (short is negative). An order reduces when, whatever part of it and of the closing orders already
working or on their way fills, the position never crosses zero and never grows: +100 → −50 is not a reduction although
50 is less than 100.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from breaker.gate.held import held_of, why_uncovering
from breaker.gate.intents import ListKind, OrderList, ReplaceIntent, all_working_terms, asked_terms
from breaker.gate.order_terms import InvalidOrder, Terms
from breaker.gate.reservations import Reservation
from breaker.orders import ZERO, Side


def why_not_reducing(
    intent: Any, position: Any, working: Iterable[Any] = (), reserved: Sequence[Reservation] = ()
) -> str | None:
    """None when `intent` can only reduce what is held, else a clause that says why it can't be let through.

    `position` is what `held_of` takes. `working` are the open orders of the account; those that close the same position
    are counted at their remaining quantity, and one that can't be understood, or is for an amount of money, blocks its
    own symbol only. `reserved` is what was let through and is on its way. A `Position` that says how much of it is
    `available` is believed where that is less.
    Raises `InvalidOrder` when what is asked, or the position, makes no sense.
    """
    asked = asked_terms(intent)
    claims = claims_on(working, reserved)
    if isinstance(intent, ReplaceIntent):
        return _why_not_replacing(intent, asked[0], position, claims)
    if isinstance(position, Decimal | int | float | str) and len({terms.symbol for terms in asked}) > 1:
        raise InvalidOrder("a bare number does not say in which of the list's symbols it is held")
    before = [terms for terms in claims if terms.side is Side.SELL]
    for terms in asked:
        problem = _why_not(terms, position, claims)
        if problem is not None:
            return problem
        claims = [*claims, terms]
    sold = [terms for terms in asked if terms.side is Side.SELL]
    filled_with_it = isinstance(intent, OrderList) and intent.kind == ListKind.LEGS
    bought = [terms for terms in asked if terms.side is Side.BUY] if filled_with_it else []
    return why_uncovering(position, before, sold, bought)


def new_risk(intent: Any, position: Any, working: Iterable[Any], reserved: Sequence[Reservation]) -> list[Terms]:
    """What of `intent` does not only reduce; of a replacement, what it adds to the old order.

    Exits that an entry of the same list triggers, for no more than the entry, add none.
    """
    asked = asked_terms(intent)
    claims = claims_on(working, reserved)
    if isinstance(intent, ReplaceIntent):
        old = _replaced(intent, asked[0], claims)
        if old is None or old.quantity is None or asked[0].quantity is None:
            return asked
        added = asked[0].quantity - old.quantity
        return [replace(asked[0], quantity=added)] if added > 0 else []
    found: list[Terms] = []
    for terms in _without_triggered_exits(intent, asked):
        if _reduces(terms, position, claims):
            claims = [*claims, terms]
        else:
            found.append(terms)
    return found


def claims_on(working: Iterable[Any], reserved: Iterable[Reservation]) -> list[Terms]:
    """What else may take from positions: open orders, and what was let through and is not among them yet.

    A replacement on its way and the open order that it replaces count once, at the larger.
    """
    listed = [terms for order in working for terms in all_working_terms(order)]
    known = frozenset((terms.symbol, each) for terms in listed for each in terms.ids)
    claims = list(listed)
    for reservation in reserved:
        for terms in reservation.terms:
            ids = frozenset((terms.symbol, each) for each in terms.ids - {reservation.replaces})
            if ids and ids <= known:
                continue
            old = next(
                (each for each in listed if reservation.replaces in each.ids and each.competes_with(terms)), None
            )
            if old is not None and old.quantity is not None and terms.quantity is not None:
                terms = replace(terms, quantity=max(terms.quantity - old.quantity, ZERO))  # noqa: PLW2901
            claims.append(terms)
    return claims


def _why_not(asked: Terms, position: Any, claims: Sequence[Terms], freed: Decimal = ZERO) -> str | None:
    """`freed`: what the venue holds for an order that this one replaces."""
    holding = held_of(position, asked)
    if holding is None:
        return "the position is not known"
    held, available = holding
    if asked.side is None or held == 0:
        return f"there is no position in {asked.name} to reduce"
    if asked.side.sign * held > 0:
        return f"a {asked.side} adds to a position of {held:f}"
    closing = [claim for claim in claims if claim.competes_with(asked)]
    if asked.reduce_only and all(claim.reduce_only for claim in closing):
        closing, available = [], abs(held)  # the venue sees to it that they don't cross zero together
    unknown = next((claim for claim in closing if claim.quantity is None), None)
    if unknown is not None:
        which = f"a working order may still take is not known: {unknown.described}"
        return f"how much of {asked.name} {which if unknown.at_venue else 'an order on its way takes is not known'}"
    if asked.quantity is None and not asked.reduce_only:
        return f"how much of {asked.name} an order for an amount of money takes is not known, and it is not reduce-only"
    if asked.quantity is None:
        beside = f"how much of {asked.name} it takes is not known, and other orders that close it are not reduce-only"
        return beside if closing else None
    total = sum((claim.quantity or ZERO for claim in closing), ZERO)
    on_their_way = sum((claim.quantity or ZERO for claim in closing if not claim.at_venue), ZERO)
    room = max(min(abs(held) - total, available + freed - on_their_way), ZERO)
    if asked.quantity > room:
        waits = f", {on_their_way:f} by orders let through just now (`gate.settle` ends that)" if on_their_way else ""
        return (
            f"a {asked.side} of {asked.quantity:f} could cross zero: position {held:f}, {room:f} of it not being "
            f"closed yet{waits}"
        )
    return None


def _why_not_replacing(intent: ReplaceIntent, new: Terms, position: Any, claims: Sequence[Terms]) -> str | None:
    old = _replaced(intent, new, claims)
    if old is None:
        return _why_not(new, position, claims)
    shrinks = old.quantity is not None and new.quantity is not None and new.quantity <= old.quantity
    if intent.only_quantity and shrinks:
        return None
    others = [claim for claim in claims if claim is not old]
    return _why_not(new, position, others, freed=(old.quantity or ZERO) if old.at_venue else ZERO)


def _replaced(intent: ReplaceIntent, new: Terms, claims: Sequence[Terms]) -> Terms | None:
    return next((claim for claim in claims if intent.order_id in claim.ids and claim.competes_with(new)), None)


def _reduces(terms: Terms, position: Any, claims: Sequence[Terms]) -> bool:
    try:
        return _why_not(terms, position, claims) is None
    except InvalidOrder:
        return False


def _without_triggered_exits(intent: Any, asked: Sequence[Terms]) -> Sequence[Terms]:
    if not (isinstance(intent, OrderList) and intent.kind == ListKind.OTO):
        return asked
    entry, *triggered = asked
    if entry.quantity is None:
        return asked
    left, found = entry.quantity, [entry]
    for terms in triggered:
        opposite = terms.symbol == entry.symbol and terms.side is not entry.side
        same_position = terms.position_side is entry.position_side
        if opposite and same_position and terms.quantity is not None and terms.quantity <= left:
            left -= terms.quantity
        else:
            found.append(terms)
    return found
