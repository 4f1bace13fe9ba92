"""Say what an exit cost as people read it: the same words on a terminal, in the console and in Markdown. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal

from breaker.orders import Side
from tasks.amounts import grouped
from tasks.kill.cost import CostLine, CostSum, ExitCost, Origin
from tasks.markdown import cell

UNKNOWN = "–"
"""What stands for a number that was not read."""
COLUMNS = ("symbol", "filled", "average", "at trip", "slippage", "bp", "realised")
MARKS = {Origin.CLOSE: "", Origin.RACED: "*", Origin.OTHER: "°"}
_BIG = Decimal(100_000)
_DIGITS = 6
_FINE = Decimal("0.0001")


def headline(cost: ExitCost) -> list[str]:
    """All of it in a few short parts, the most important first."""
    if cost.nothing_filled:
        return ["nothing was closed, and nothing filled"]
    if not cost.lines and not cost.closed:
        return [f"not known: {cost.problem}"]
    closes = cost.closes
    share = f" ({points(closes.basis_points)} bp of {money(closes.value)} closed)" if closes.value else ""
    said = [
        f"slippage {money(closes.slippage, cost.currency)}{share}",
        f"realised P&L {money(closes.realised, cost.currency)}",
        _fees(cost),
    ]
    if cost.beside.fills:
        said.append(f"{cost.beside.fills} fill{_s(cost.beside.fills)} of other orders")
    return said if cost.whole else [f"{cost.priced} of {cost.closed} closes priced", *said]


def in_a_line(cost: ExitCost) -> str:
    """Empty where nothing filled, or nothing of it is known."""
    return " · ".join(headline(cost)) if cost.lines else ""


def remarks(cost: ExitCost) -> list[str]:
    """What has to be said beside the table: what is missing, whose the other fills are, what it is measured against."""
    if not cost.lines and not cost.closed:
        return []
    said = []
    if not cost.whole:
        said.append(f"The sums are of what is known: {cost.problem or _unpriced(cost)}.")
    if cost.lines_left_out:
        left = cost.lines_left_out
        said.append(f"{left} more line{_s(left)} {'is' if left == 1 else 'are'} not shown; the sums have them.")
    for origin, mark in MARKS.items():
        if mark and any(line.origin is origin for line in cost.lines):
            said.append(f"{mark} {origin.value}: not counted with the closes.")
    if cost.first_reference is not None:
        last = cost.last_reference or 0.0
        later = f", of the last position {last:.2f} s" if last > cost.first_reference + 0.1 else ""
        said += [
            f"At trip: the venue's price as first read, {cost.first_reference:.2f} s after the start{later}.",
            "Slippage above zero is a cost, below zero a gain.",
        ]
    return said


def _s(number: int) -> str:
    return "" if number == 1 else "s"


def _unpriced(cost: ExitCost) -> str:
    without = [line.symbol for line in cost.lines if line.slippage is None or line.realised is None]
    names = ", ".join(dict.fromkeys(without[:5]))
    return f"of {names} the venue gave no price, or not what it was entered at" if names else "fills are missing"


def sections(cost: ExitCost) -> list[list[tuple[str, ...]]]:
    """The rows under `COLUMNS`: the closes and their sum, then what filled beside them and its sum."""
    lines = by_cost(cost)
    found = []
    for name, total, own in (
        ("total", cost.closes, [line for line in lines if line.origin is Origin.CLOSE]),
        ("others", cost.beside, [line for line in lines if line.origin is not Origin.CLOSE]),
    ):
        if total.fills:
            found.append([*(_cells(line) for line in own), _sum_cells(name, total)])
    return found


def _cells(line: CostLine) -> tuple[str, ...]:
    return (
        f"{line.symbol}{MARKS[line.origin]}",
        f"{'+' if line.side is Side.BUY else '-'}{quantity(line.quantity)}",
        price(line.average_price),
        price(line.reference),
        _amount(line.slippage),
        points(line.basis_points),
        _amount(line.realised),
    )


def _sum_cells(name: str, total: CostSum) -> tuple[str, ...]:
    return (name, "", "", "", _amount(total.slippage), points(total.basis_points), _amount(total.realised))


def by_cost(cost: ExitCost) -> list[CostLine]:
    """The dearest first, and last what has no price."""
    return sorted(cost.lines, key=lambda line: (line.slippage is None, -(line.slippage or 0)))


def markdown(costs: Sequence[ExitCost]) -> list[str]:
    """A section for each account, without a heading."""
    lines: list[str] = []
    for cost in costs:
        lines += [f"**{cell(cost.account)}**: {cell(' · '.join(headline(cost)))}", ""]
        if found := sections(cost):
            lines += [f"| {' | '.join(COLUMNS)} |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
            for rows in found:
                lines += [f"| {' | '.join(_escaped(each) for each in row)} |" for row in rows[:-1]]
                lines += [f"| {' | '.join(f'**{each}**' if each else '' for each in rows[-1])} |"]
            lines += [""]
        lines += [*(f"- {_escaped(remark)}" for remark in remarks(cost)), ""]
    return lines


def _escaped(text: str) -> str:
    return cell(text).replace("*", "\\*")


def money(value: Decimal | None, currency: str = "") -> str:
    """To the cent, or in a coin to eight digits."""
    return UNKNOWN if value is None else grouped(value, currency)


def _amount(value: Decimal | None) -> str:
    """Money in a table: a big amount to the unit, for want of room."""
    return f"{value:,.0f}" if value is not None and abs(value) >= _BIG else money(value)


def price(value: Decimal | None) -> str:
    """As fine as it is, but for what an average has beyond four decimals, or six digits of a price below one."""
    if value is None:
        return UNKNOWN
    value = value.quantize(_FINE, ROUND_HALF_EVEN) if abs(value) >= 1 else round(value, _DIGITS - 1 - value.adjusted())
    text = f"{value.normalize():,f}"
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals:0<2}"


def quantity(value: Decimal) -> str:
    """Without the zeros that a venue appends, and of more than one unit to four decimals."""
    return f"{(value.quantize(_FINE, ROUND_HALF_EVEN) if abs(value) >= 1 else value).normalize():,f}"


def points(value: Decimal | None) -> str:
    """Basis points: few to a tenth, many to the whole."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value + 0:,.1f}"


def _fees(cost: ExitCost) -> str:
    fees, given, fills = cost.closes.fees, cost.closes.with_fee, cost.closes.fills
    if fees is None:
        return "fees not given"
    return f"fees {money(fees, cost.currency)}" + ("" if given == fills else f" for {given} of {fills} fills")
