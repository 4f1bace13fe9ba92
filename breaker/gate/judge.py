"""Decide whether an order may pass. Pure: what the gate knows, a time and an order in; a `Decision` out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from breaker.gate.decision import EXPIRED, Decision, Permit, Reason
from breaker.gate.intents import CancelIntent, ListKind, OrderList, ReplaceIntent, orders_in, why_malformed
from breaker.gate.lease import Lease, ScopeState, ScopeView
from breaker.gate.order_terms import InvalidOrder, Terms
from breaker.gate.quiet_period import OrderRateLimiter, QuietPeriodLimits, size_problem
from breaker.gate.reservations import Reservation
from breaker.gate.risk_reduction import new_risk, why_not_reducing
from breaker.instruments import concerns_symbol
from breaker.keys import of_scope

_NO_EPOCH = -1
_HALTS = {
    ScopeState.TRIPPED: Reason.TRIPPED,
    ScopeState.MISSING: Reason.STATE_MISSING,
    ScopeState.UNREADABLE: Reason.STATE_UNREADABLE,
    ScopeState.OUTDATED: Reason.STATE_OUTDATED,
}


@dataclass(frozen=True, slots=True)
class Halt:
    """Why only orders that reduce risk pass, as a code and a sentence."""

    reason: Reason
    sentence: str
    scope: str | None = None


def blanket_decision(lease: Lease, halt: Halt | None) -> Decision:
    """The decision that holds for every order until `deadline`; refuses, and never holds, unless all is clear."""
    if halt is not None:
        return Decision(False, halt.reason, halt.sentence, scope=halt.scope)
    until = lease.clear_until
    if until == EXPIRED:
        return Decision(False, Reason.STALE, "Each order is judged by itself.")
    return Decision(True, Reason.OPEN, "Every breaker is open.", permit_of(lease, until), deadline=until)


def permit_of(lease: Lease, deadline: float) -> Permit:
    """The permit for a decision made on what `lease` knows, which may be acted on until `deadline`."""
    return Permit({view.scope: view.reading.epoch for view in lease.views}, deadline)


def gate_halt(lease: Lease, now: float) -> Halt | None:
    """Set when the lease has run out: then nothing that is known may be acted on."""
    if now < lease.deadline:
        return None
    if lease.deadline == EXPIRED:
        return Halt(
            Reason.BEING_READ,
            "The breaker's state has changed or was never read, and is being read now; meanwhile only orders that "
            "reduce risk pass.",
        )
    return Halt(
        Reason.STALE,
        f"Redis has not confirmed the breaker's state within {lease.max_staleness * 1000:.0f} ms; "
        "until it does, only orders that reduce risk pass. Look at Redis and the network.",
    )


def not_connected(problem: str) -> Halt:
    """What halts a gate whose connection is gone, or was never there."""
    return Halt(
        Reason.NOT_CONNECTED,
        f"The gate has no connection to Redis ({problem}); it goes on trying, and only orders that reduce risk pass.",
    )


def scope_halt(views: Iterable[ScopeView]) -> Halt | None:
    """The first scope that halts, in the order watched; `global` comes first."""
    for view in views:
        if view.state.halts:
            return Halt(_HALTS[view.state], _sentence(view), view.scope)
    return None


def least_fraction(views: Iterable[ScopeView], now: float, start: Decimal) -> Decimal | None:
    """The least fraction of normal that a quiet period among these allows at `now`; None without one."""
    return min(_fractions(views, now, start).values(), default=None)


def views_of_order(views: Iterable[ScopeView], order: Any) -> list[ScopeView]:
    """The scopes that an order belongs to: those that it names, and those whose kind it says nothing about.

    A list belongs to those of each of its orders.
    """
    orders = tuple(orders_in(order))
    return [view for view in views if any(_concerns(view.scope, each) for each in orders)]


def judge(
    lease: Lease,
    halt: Halt | None,
    now: float,
    order: Any,
    position: Any,
    working: Iterable[Any],
    limits: QuietPeriodLimits,
    rate: OrderRateLimiter,
    reserved: Sequence[Reservation] = (),
) -> Decision:
    """The decision on one order, list, replacement or cancel. `halt` is what stops the gate as a whole, whatever the
    breakers say; `reserved`, what was let through and has not been settled.

    Never raises for what can't be an order; that is refused in every state. A permit to reduce has no end yet.
    """
    if isinstance(order, CancelIntent):
        permit = replace(permit_of(lease, math.inf), reduces=True)
        return Decision(True, Reason.CANCEL, "A cancel adds nothing, and always passes.", permit)
    views = views_of_order(lease.views, order)
    halt = halt or gate_halt(lease, now) or scope_halt(views)
    quiet = [view for view in views if view.state is ScopeState.QUIET_PERIOD]
    malformed = why_malformed(order)
    if halt is None and malformed is not None:
        return Decision(False, Reason.INVALID_ORDER, f"The order was refused, because {malformed}; nothing was sent.")
    if halt is None and not quiet:
        return Decision(
            True, Reason.OPEN, "Every breaker that concerns the order is open.", permit_of(lease, lease.deadline)
        )
    position, working = _readable_twice(position), tuple(working)
    problem = malformed or _why_not_reducing(order, position, working, reserved)
    if problem is None:
        permit = replace(permit_of(lease, math.inf), reduces=True)
        return Decision(True, Reason.REDUCES_RISK, _why_reducing(order), permit)
    if halt is not None:
        sentence = f"{halt.sentence} This order does not: {problem}."
        return Decision(False, halt.reason, sentence, None, halt.scope)
    try:
        risk = new_risk(order, position, working, reserved)
        return _judge_quiet(lease, quiet, now, order, risk, limits, rate)
    except InvalidOrder as error:
        return Decision(False, Reason.INVALID_ORDER, f"The order was refused, because {error}; nothing was sent.")


def judge_permit(permit: Permit, lease: Lease, halt: Halt | None, now: float, order: Any) -> Decision:
    """Whether a decision made earlier still stands; `order` None: for every watched breaker."""
    if permit.reduces:
        if now < permit.deadline:
            return Decision(True, Reason.REDUCES_RISK, "The permit to reduce still stands.", permit)
        sentence = "The permit's time has passed, so its order no longer counts as working; nothing was sent."
        return Decision(False, Reason.PERMIT_EXPIRED, f"{sentence} Check it again.")
    views = views_of_order(lease.views, order)
    halt = halt or gate_halt(lease, now) or scope_halt(views)
    if halt is not None:
        return Decision(False, halt.reason, halt.sentence, None, halt.scope)
    if any(permit.epochs.get(view.scope, _NO_EPOCH) != view.reading.epoch for view in views):
        sentence = "A breaker has changed since the order was checked; nothing was sent. Check it again."
        return Decision(False, Reason.PERMIT_EXPIRED, sentence)
    return Decision(True, Reason.OPEN, "The permit still stands.", Permit(permit.epochs, lease.deadline))


def _readable_twice(position: Any) -> Any:
    """All positions of an account may come as an iterator."""
    return tuple(position) if isinstance(position, Iterator) else position


def _why_not_reducing(order: Any, position: Any, working: Iterable[Any], reserved: Sequence[Reservation]) -> str | None:
    try:
        return why_not_reducing(order, position, working, reserved)
    except InvalidOrder as error:
        return str(error)


def _why_reducing(order: Any) -> str:
    if isinstance(order, ReplaceIntent):
        return "The replacement only reduces the position, or adds nothing to the order that works."
    if isinstance(order, OrderList):
        return "Each order of the list only reduces a position, all of them together too."
    return "The order only reduces the position."


def _judge_quiet(
    lease: Lease,
    quiet: list[ScopeView],
    now: float,
    order: Any,
    risk: Sequence[Terms],
    limits: QuietPeriodLimits,
    rate: OrderRateLimiter,
) -> Decision:
    fractions = _fractions(quiet, now, limits.start_fraction)
    scope = min(fractions, key=lambda name: fractions[name])
    fraction = fractions[scope]
    problems = (size_problem(limits, fraction, each.name, each.quantity, each.normal_quantity) for each in risk)
    problem = next((each for each in problems if each is not None), None)
    if problem is not None:
        sentence = f"The {scope} breaker is in its quiet period: {problem}. Send less, or wait for its end."
        return Decision(False, Reason.QUIET_SIZE, sentence, None, scope)
    one_order = isinstance(order, OrderList) and order.kind == ListKind.LEGS
    if not rate.admit(now, limits, fraction, min(len(risk), 1) if one_order else len(risk)):
        most = limits.max_orders(fraction)
        sentence = f"The {scope} breaker is in its quiet period: {most} orders a minute pass now. Send fewer, or wait."
        return Decision(False, Reason.QUIET_RATE, sentence, None, scope)
    sentence = f"The {scope} breaker is in its quiet period; the order is within {fraction:.0%} of normal."
    return Decision(True, Reason.QUIET_PERIOD, sentence, permit_of(lease, lease.deadline), scope)


def _fractions(views: Iterable[ScopeView], now: float, start: Decimal) -> dict[str, Decimal]:
    """By scope, the fraction of normal that its quiet period allows at `now`."""
    return {
        view.scope: view.reading.quiet_period.fraction(now, start)
        for view in views
        if view.state is ScopeState.QUIET_PERIOD and view.reading.quiet_period
    }


def _concerns(scope: str, order: Any) -> bool:
    kind, _, name = scope.partition(":")
    if not name:
        return True
    said = getattr(order, kind, None)
    if kind == "symbol" and said is not None:
        return concerns_symbol(name, str(said))
    return said is None or str(said) == name


def _sentence(view: ScopeView) -> str:
    match view.state:
        case ScopeState.TRIPPED:
            why = f" ({view.reading.trip_reason})" if view.reading.trip_reason else ""
            return f"The {view.scope} breaker is TRIPPED{why}; until its reset only orders that reduce risk pass."
        case ScopeState.OUTDATED:
            return (
                f"Redis serves a state of the {view.scope} breaker (epoch {view.reading.epoch}) that is older than one "
                "seen before; only orders that reduce risk pass. After a failover or a restored backup, find out what "
                f"is true, then run `breaker init --force{of_scope(view.scope)}`."
            )
        case _:
            return f"{view.reading.problem} Until then only orders that reduce risk pass."
