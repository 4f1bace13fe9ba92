"""Show rows of the audit log: two lines an entry, under the day and the incident that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from cli.circuit_view import console

if TYPE_CHECKING:
    from ledger.record import AuditRow

INDENT = 10
"""Columns before an entry's details: they stand under the action, behind the time."""
DETAIL_LINES = 2
"""Of an entry's details; all of them are in `--json`, and in the console."""


def show_rows(rows: Sequence[AuditRow]) -> None:
    """Newest first, as they come; what was done without an incident stands under the day alone."""
    out = console()
    if not rows:
        out.print("Nothing on record.")
        return
    widest = max(len(row.action) for row in rows)
    for (day, incident), group in groupby(rows, lambda row: (f"{row.timestamp:%Y-%m-%d}", row.incident_id)):
        out.print(Text.assemble((f"{day} UTC", "bold"), (f"  incident {incident}" if incident else "", "dim")))
        for row in group:
            out.print(_first_line(row, widest))
            _show_details(out, row)


def _first_line(row: AuditRow, widest: int) -> Text:
    action = (f"{row.action:<{widest}}", "bold")
    outcome = ("" if row.outcome == "OK" else f"  {row.outcome}", "yellow")
    return Text.assemble(f"{row.timestamp:%H:%M:%S}  ", action, f"  {row.user_id or '–'} by {row.source}", outcome)


def _show_details(out: Console, row: AuditRow) -> None:
    given = {name: value for name, value in row.details.items() if value not in (None, "", [], {})}
    said = "  ".join(f"{name} {_value(value, row)}" for name, value in given.items())
    lines = list(Text(said, "dim").wrap(out, max(out.width - INDENT, 20)))
    if len(lines) > DETAIL_LINES:
        lines = lines[:DETAIL_LINES]
        lines[-1].truncate(out.width - INDENT - 2)
        lines[-1].append(" …")
    for line in lines:
        out.print(Padding(line, (0, 0, 0, INDENT)))


def _value(value: object, row: AuditRow) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(inner, row)}" for name, inner in value.items())
    if isinstance(value, list):
        several = any(isinstance(inner, Mapping) for inner in value)
        return f"{len(value)} listed" if several else ", ".join(_value(inner, row) for inner in value)
    said = str(value)
    # An incident's id begins the ids of its orders, and stands above already.
    return said.replace(row.incident_id, "…") if row.incident_id and said != row.incident_id else said
