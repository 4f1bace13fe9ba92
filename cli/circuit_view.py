"""Show a breaker's state and history on a terminal: the state in one glance, a table, the next step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import typer
from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from breaker.events import TransitionEvent, UnreadableEvent
from breaker.state import State, Status
from cli.exit_codes import Exit
from cli.messages import say
from cli.options import on_terminal
from cli.prompts import Unanswered, ask
from configuration.printed_commands import with_pastable
from console.labels import STATE_LABELS
from console.value_format import detail, duration
from tasks.kill.pending_exits import PendingExit
from tasks.kill.venue_lock import VenueLock

WIDTH_ELSEWHERE = 160
SHOWN_BREAKERS = 20
SHOWN_EXITS = 20
SHOWN_UNREADABLE = 3

_COLOURS = {State.OPEN: "green", State.TRIPPED: "red", State.QUIET_PERIOD: "yellow", State.UNKNOWN: "red"}


def console(*, stderr: bool = False) -> Console:
    """Standard output or error; colour and boxes only where it is a terminal, and room enough where it is none."""
    out = Console(stderr=stderr, highlight=False)
    return out if out.is_terminal else Console(stderr=stderr, highlight=False, width=WIDTH_ELSEWHERE)


def show_status(status: Status, scope: str, target: str = "") -> None:
    label, colour = STATE_LABELS[status.state], _COLOURS[status.state]
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in [*_facts(status), ("of", target)]:
        if value:
            facts.add_row(name, Text(value))
    title = Text.assemble(
        (f"{label.shape} {status.state.value}", f"bold {colour}"), f"  {scope}  ", (label.meaning, "dim")
    )
    out = console()
    if out.is_terminal:
        out.print(Panel(facts, title=title, title_align="left", border_style=colour, box=box.ROUNDED))
    else:
        out.print(title)
        out.print(facts)


def _facts(status: Status) -> list[tuple[str, str]]:
    details = {name: detail(value) for name, value in status.trip_details.items()}
    reason = details.pop("reason", "")
    tripped = status.state is State.TRIPPED
    return [
        ("problem", with_pastable(status.problem or "")),
        ("tripped" if tripped else "last trip", _when(status.tripped_at, status.as_of, status.tripped_by)),
        ("why", " · ".join(part for part in (status.trip_reason, reason) if part)),
        ("details", ", ".join(f"{name}={value}" for name, value in details.items() if name != "operator")),
        ("reset", _when(status.reset_at, status.as_of, status.reset_by)),
        ("reset reason", status.reset_reason or ""),
        ("quiet until", _quiet_until(status)),
        ("trips today", str(status.trip_count_today) if status.trip_count_today else ""),
        ("incident", status.incident_id or ""),
        ("epoch", str(status.epoch) if status.epoch is not None else ""),
    ]


def _quiet_until(status: Status) -> str:
    if status.state is not State.QUIET_PERIOD:
        return ""
    if status.ends_watched and status.quiet_until and status.as_of and status.quiet_until <= status.as_of:
        return "it has been watched without a hole"
    return _when(status.quiet_until, None, None)


def show_restricted(statuses: Mapping[str, Status]) -> None:
    """Other breakers that are not OPEN, worst first, a line each."""
    out = console()
    for scope, status in list(statuses.items())[:SHOWN_BREAKERS]:
        label, colour = STATE_LABELS[status.state], _COLOURS[status.state]
        facts = dict(_facts(status))
        until = f"until {facts['quiet until']}" if facts["quiet until"] else ""
        since = f"since {facts['tripped']}" if facts.get("tripped") else until
        said = "  ".join(part for part in (since, facts["why"], facts["problem"]) if part)
        out.print(
            Text.assemble((f"  {label.shape} {status.state.value}", f"bold {colour}"), f"  {scope}  ", (said, "dim"))
        )
    if len(statuses) > SHOWN_BREAKERS:
        out.print(f"  … and {len(statuses) - SHOWN_BREAKERS} more breakers that are not OPEN")


def show_pending_exits(out: Console, exits: Sequence[PendingExit]) -> None:
    """What a kill switch could not close, why, and when it is tried again."""
    for pending in exits[:SHOWN_EXITS]:
        held = f"; {with_pastable(pending.held)}" if pending.held else ""
        out.print(
            Text.assemble(
                ("  ◷ pending  ", "yellow"),
                f"{pending.what}, tried again at {pending.next_try:%Y-%m-%d %H:%M:%S} UTC",
                (f"  {pending.reason}{held}", "dim"),
            )
        )
    if len(exits) > SHOWN_EXITS:
        out.print(f"  … and {len(exits) - SHOWN_EXITS} more")


def show_venue_locks(out: Console, locks: Sequence[VenueLock]) -> None:
    """The accounts that a kill switch has locked at their venue."""
    for lock in locks:
        mark = ("  ▣ locked   ", "green") if lock.lifted_elsewhere is None else ("  ! not locked  ", "red")
        out.print(Text.assemble(mark, str(lock)))


def show_history(events: Sequence[TransitionEvent], scope: str) -> None:
    if not events:
        console().print(f"No transition of {scope} is on record.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("when (UTC)", "what", "from → to", "by", "reason", "incident"):
        table.add_column(column, overflow="fold")
    for event in events:
        table.add_row(
            f"{event.at:%Y-%m-%d %H:%M:%S}",
            event.transition.value,
            f"{event.from_state} → {event.to_state}",
            Text(event.by),
            Text(event.reason),
            (event.incident_id or "")[-12:],
        )
    console().print(table)


def unreadable_sentence(unreadable: Sequence[UnreadableEvent]) -> str:
    """How many members of a history can't be read, and what the first of them look like."""
    shown = "; ".join(str(each) for each in unreadable[:SHOWN_UNREADABLE])
    more = f"; and {len(unreadable) - SHOWN_UNREADABLE} more" if len(unreadable) > SHOWN_UNREADABLE else ""
    return (
        f"{len(unreadable)} of the history's newest members are no transitions, and left out ({shown}{more}). Somebody "
        "has added or damaged them: look at them, then ZREM them"
    )


def ask_for(
    word: str,
    statement: str,
    status: Status,
    scope: str,
    *,
    option: str,
    otherwise: str,
    leave_with: Exit = Exit.REFUSED,
) -> None:
    """Go on only if the word is typed; `option` would have done so without asking.

    Leaves with that exit status, saying `otherwise`, what was done and what not.
    """
    if not on_terminal():
        raise typer.BadParameter(otherwise, param_hint=option)
    show_status(status, scope)
    try:
        typed = ask(f"{statement} Type {word} to go on")
    except Unanswered:
        typed = ""
    if typed != word:
        say(otherwise)
        raise typer.Exit(leave_with)


def next_step(text: str) -> None:
    console().print(Text.assemble(("next: ", "dim"), with_pastable(text)), soft_wrap=True)


def _when(moment: datetime | None, now: datetime | None, who: str | None) -> str:
    if moment is None:
        return ""
    ago = f" ({duration((now - moment).total_seconds())} ago)" if now else ""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC{ago}" + (f" by {who}" if who else "")
