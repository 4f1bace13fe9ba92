"""Tell what of the account's positions could be closed right now, by orders of the right form. Pure.

It is what a kill switch is judged by when it ends: whatever is closable then, it should have closed.
"""

from __future__ import annotations

from collections import Counter
from decimal import ROUND_DOWN, Decimal
from typing import Final

from breaker.instruments import AssetClass
from breaker.orders import ZERO, Side
from sandbox.exchange.assets import ALWAYS_OPEN, contract_of, in_positions
from sandbox.exchange.exchange import Exchange
from sandbox.exchange.orders import PaperPosition, Status
from sandbox.exchange.scenario import ExitRefusal, Protocol, Scenario, Session

_ANY_NUMBER: Final = 1_000_000
"""Contracts that a short position may have which nobody can read."""


def closable(exchange: Exchange, scenario: Scenario) -> dict[str, Decimal]:
    """The quantity of each position that could be closed, by its name as the report has it; none that couldn't.

    Short options come first, as they would. Of what may cover one that can't be bought back, as much stays as it takes.
    What the account is shown in a way that nobody can read is none of it.
    """
    if exchange.locks.why:
        return {}
    found: dict[str, Decimal] = {}
    uncovered: Counter[tuple[str, bool]] = Counter()
    for position in sorted(exchange.book.positions.values(), key=lambda position: not _is_short_option(position)):
        qty = _closable(exchange, scenario, position)
        contract = contract_of(position.symbol)
        if contract and position.qty < 0:
            uncovered[contract.underlying, contract.is_call] += (
                _ANY_NUMBER if position.unreadable else int(abs(position.qty) - qty)
            )
        else:
            qty = min(qty, max(abs(position.qty) - _needed(uncovered, position), ZERO))
        if qty:
            found[in_positions(position.name)] = qty
    return found


def _is_short_option(position: PaperPosition) -> bool:
    return position.qty < 0 and contract_of(position.symbol) is not None


def _needed(uncovered: Counter[tuple[str, bool]], position: PaperPosition) -> Decimal:
    """How much of a position may be what covers the shorts that stay."""
    if contract := contract_of(position.symbol):
        return Decimal(uncovered[contract.underlying, contract.is_call])
    return Decimal(100 * uncovered[position.symbol, position.qty > 0])


def _closable(exchange: Exchange, scenario: Scenario, position: PaperPosition) -> Decimal:
    asset = exchange.book.asset(position.symbol)
    if position.unreadable:
        return ZERO
    halted = exchange.matching.is_halted(position.symbol)
    refused = any(_refuses_for_good(rule, position.symbol, exchange.now) for rule in scenario.exit_refusals)
    if halted or refused or not _in_session(asset.asset_class, exchange.matching.session):
        return ZERO
    stuck = _held_for_good(exchange, position.name, position.closing_side)
    qty = max(abs(position.qty) - stuck - position.withheld, ZERO)
    fractions = exchange.matching.session is Session.OPEN or scenario.fractions_outside_session
    if asset.asset_class is AssetClass.EQUITY and not fractions:
        qty = qty.to_integral_value(rounding=ROUND_DOWN)
    if scenario.protocol is not Protocol.ALPACA:
        qty = (qty / asset.quantity_increment).to_integral_value(rounding=ROUND_DOWN) * asset.quantity_increment
    cost = exchange.book.value(position.symbol, qty)
    counts = _has_minimum_cost(scenario, position)
    if qty < asset.minimum_quantity or (counts and cost < asset.minimum_cost):
        return ZERO
    return qty


def _has_minimum_cost(scenario: Scenario, position: PaperPosition) -> bool:
    """Whether the order that closes it must be worth something: at Binance every sale of a pair, and no contract's."""
    match scenario.protocol:
        case Protocol.ALPACA:
            return scenario.sales_have_minimum_cost or position.qty < 0
        case Protocol.BINANCE_SPOT:
            return True
        case Protocol.BINANCE_FUTURES:
            return False


def _in_session(asset_class: AssetClass, session: Session) -> bool:
    if asset_class in ALWAYS_OPEN:
        return True
    return session is Session.OPEN if asset_class is AssetClass.OPTION else session is not Session.CLOSED


def _held_for_good(exchange: Exchange, name: str, side: Side) -> Decimal:
    """What orders for this position hold that can't be cancelled now."""
    pending = {Status.PENDING_REPLACE, Status.PENDING_CANCEL}
    orders = exchange.book.holding_orders(name, side)
    return sum((order.holds for order in orders if order.status in pending), ZERO)


def _refuses_for_good(rule: ExitRefusal, symbol: str, now: float) -> bool:
    applies = not rule.symbols or symbol in rule.symbols
    ends = rule.first is not None or rule.probability < 1 or (rule.until is not None and now >= rule.until)
    return applies and not ends and now >= rule.after
