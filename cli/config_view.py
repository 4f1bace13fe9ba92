"""Show the configuration that is in force, table by table, and how that of each running process compares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.circuit_view import console
from configuration.in_force import DEFAULT, Entry
from configuration.running import BUILT_IN
from tasks.running_services import Comparison


def show_entries(entries: Sequence[Entry], file: str, file_hash: str, out: Console | None = None) -> None:
    """`file` is empty where there is none."""
    out = out or console()
    source = f"{file} ({file_hash})" if file else "no file: defaults and environment variables"
    out.print(Text.assemble(("from ", "dim"), source), soft_wrap=True)
    out.print(entries_as_tables(entries, file))


def entries_as_tables(entries: Iterable[Entry], file: str = "") -> RenderableType:
    """A table for each table of `breaker.toml`, all with the same columns; `file` is named by its last part."""
    parts: list[RenderableType] = []
    for name, group in groupby(_tables_last(entries), lambda entry: entry.table):
        table = Table(box=None, pad_edge=False, show_header=False, expand=True)
        for ratio in (6, 8, 6):
            table.add_column(ratio=ratio, overflow="fold")
        for entry in group:
            table.add_row(
                entry.name,
                Text(said(entry), "" if entry.value is not None else "dim"),
                Text(_origin(entry, file), "dim" if entry.origin == DEFAULT else "bold"),
            )
        parts += [Text(f"\n[{name}]" if name else "", "bold"), table]
    return Group(*parts)


def _origin(entry: Entry, file: str) -> str:
    return Path(file).name if file and Path(entry.origin).absolute() == Path(file) else entry.origin


def _tables_last(entries: Iterable[Entry]) -> list[Entry]:
    """A table's own keys stand together, before the tables within it, as TOML wants them."""
    return sorted(entries, key=lambda entry: entry.table)


def said(entry: Entry) -> str:
    """The value for people, with its unit."""
    match entry.value:
        case None:
            return "not set"
        case bool():
            return "true" if entry.value else "false"
        case []:
            return "none"
        case list():
            text = ", ".join(_plain(item) for item in entry.value)
        case _:
            text = _plain(entry.value) or "empty"
    return f"{text} {entry.unit}".rstrip()


def _plain(value: Any) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)


def show_comparisons(compared: Sequence[Comparison], here: str, out: Console | None = None) -> None:
    """What runs, and by which file; of other processes only the hash of the file is known, and not their variables."""
    out = out or console()
    if not compared:
        out.print(Text("\nNo running process has said in the last minute which configuration it has.", "dim"))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("process", "configuration", "what to do"):
        table.add_column(column, overflow="fold")
    for each in compared:
        mark = Text("● same", "green") if each.same else Text("■ differs", "bold red")
        of = each.service
        table.add_row(f"{of.service}@{of.host}\nprocess {of.pid}", mark + Text(f"\n{of.configuration}"), each.advice)
    out.print(table)
    ours = "no file" if here == BUILT_IN else here
    out.print(Text(f"Compared by the hash of the file, here {ours}; variables of processes are not known.", "dim"))
