"""Draw the recovery checklist: whole where there is room, else the section that is being worked on."""

from __future__ import annotations

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from breaker.keys import of_scope
from cli.circuit_view import console
from configuration.printed_commands import pastable, with_pastable
from tasks.recovery.checklist import CHECKLIST, Item, Section
from tasks.recovery.state import ItemState, RecoveryState, Tick

AROUND = 4
"""Lines around the sections: the head, a problem, the bar, and the cursor's own."""

Row = tuple[Text, Text, Text]
"""A mark, what it stands at, and what is told of that."""
_COLOURS = {
    Tick.GREEN: "green",
    Tick.YELLOW: "yellow",
    Tick.OVERRIDDEN: "yellow",
    Tick.RED: "red",
    Tick.WORKING: "cyan",
}


def checklist(state: RecoveryState, height: int | None = None) -> Group:
    """The checklist, on at most `height` lines: sections that are done or to come are one line each if they must be."""
    whole = height is None or AROUND + sum(1 + len(section.items) for section in CHECKLIST) <= height
    rows: list[Row] = []
    for section in CHECKLIST:
        if whole or section is current_section(state):
            rows.append((Text(), Text(f"{section.number}. {section.title}", "bold"), Text()))
            rows += [_row(item, state.item(item.key)) for item in section.items]
        else:
            rows.append(_summary(section, state))
    head = Text.assemble(
        ("▸ RECOVERY", "bold"), f"  {state.phase}  ", (f"round {state.round} · incident {state.incident_id}", "dim")
    )
    problem = [Text(f"! {with_pastable(state.problem)}", "red")] if state.problem else []
    bar = ProgressBar(total=1.0, completed=state.share_done, width=40)
    if height is not None:
        return Group(*(_on_one_line(line) for line in (head, *problem, *map(_joined, rows))), bar)
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    for row in rows:
        table.add_row(*row)
    return Group(head, *problem, table, bar)


def _joined(row: Row) -> Text:
    mark, words, told = row
    told.stylize("dim")
    return Text.assemble(mark if mark.plain else " ", " ", words, "  ", told)


def _on_one_line(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def current_section(state: RecoveryState) -> Section:
    """The first one with something left to do; the last one when nothing is."""
    left = (section for section in CHECKLIST if not all(state.item(item.key).tick.done for item in section.items))
    return next(left, CHECKLIST[-1])


def changes(before: RecoveryState | None, now: RecoveryState) -> list[str]:
    """What has happened between two looks, a line each, for what is no terminal."""
    lines = []
    if before is None or before.phase != now.phase:
        lines.append(f"▸ {now.phase}  (round {now.round}, incident {now.incident_id})")
    if now.problem and (before is None or before.problem != now.problem):
        lines.append(f"! {with_pastable(now.problem)}")
    for section in CHECKLIST:
        for item in section.items:
            shown = now.item(item.key)
            if shown.tick is not Tick.PENDING and (before is None or before.item(item.key) != shown):
                mark, words, told = (str(part) for part in _row(item, shown))
                lines.append(f"  {mark} {section.number}. {words}" + (f"  {told}" if told else ""))
    return lines


def print_next_step(state: RecoveryState) -> None:
    """What whoever looks can do now."""
    scope = of_scope(state.scope)
    if state.waiting_for:
        commands = ["breaker recover evidence"] if state.waiting_for == "root-cause" else []
        console().print(Text(f"next, for the {state.waiting_for}:", "dim"))
        for command in [*commands, "breaker recover answer"]:
            console().print(Text(f"  {pastable(command + scope)}"), soft_wrap=True)
    elif state.is_cancelled:
        console().print(Text("next, one of:", "dim"))
        for command in ("breaker recover start", "breaker recover end --reason WHY"):
            console().print(Text(f"  {pastable(command + scope)}"), soft_wrap=True)
    elif state.report_path and state.done:
        console().print(Text.assemble(("report: ", "dim"), state.report_path))


def _row(item: Item, shown: ItemState) -> Row:
    word = "" if shown.tick in (Tick.GREEN, Tick.PENDING) else f" [{shown.tick.value}]"
    who = " ".join(part for part in (shown.at[11:19], f"by {shown.by}" if shown.by else "") if part)
    return (
        Text(shown.tick.mark, _COLOURS.get(shown.tick, "")),
        Text(f"{item.words}{word}"),
        Text(" · ".join(part for part in (who, with_pastable(shown.evidence)) if part)),
    )


def _summary(section: Section, state: RecoveryState) -> Row:
    ticks = [state.item(item.key).tick for item in section.items]
    done = sum(tick.done for tick in ticks)
    worst = next((tick for tick in (Tick.RED, Tick.OVERRIDDEN, Tick.YELLOW) if tick in ticks), Tick.GREEN)
    mark = worst if done == len(ticks) or worst is Tick.RED else Tick.PENDING
    word = "" if worst is Tick.GREEN else f", {worst.value}"
    return (
        Text(mark.mark, _COLOURS.get(mark, "")),
        Text(f"{section.number}. {section.title}", "bold"),
        Text(f"{done} of {len(ticks)}{word}"),
    )
