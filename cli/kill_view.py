"""Show a kill switch on a terminal: halted or not, what will be flattened, progress, and the proof."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from breaker.keys import of_scope
from breaker.state import Status
from brokers.coverage import Coverage
from brokers.protocol import BrokerError
from brokers.sweep import SweepResult
from cli.circuit_view import console, show_pending_exits
from cli.prompts import read_line
from configuration.printed_commands import with_pastable
from configuration.reasons import KILL_CONFIRMATION
from flows.kill_start import KillDisplay, RunProgress
from tasks.kill import cost_text
from tasks.kill.account import AccountProgress
from tasks.kill.cost import without_fills
from tasks.kill.pending_exits import PendingExit
from tasks.kill.report import RESUMED_BY, KillReport, count, seconds
from tasks.kill.run import KillRun
from tasks.kill.venue_lock_store import LockReading, read_venue_locks

if TYPE_CHECKING:
    from tasks.kill.cost import ExitCost
    from tasks.kill.snapshot import Snapshot

COST_LINES = 12
"""The dearest lines of what an exit cost that fit on a screen."""


class KillView(KillDisplay):
    """Writes to standard error, so that `--json` owns standard output; `quiet` leaves out all but trouble.

    `answer` is given the result with what it cost, once the halt is made: what follows is only the record of it.
    """

    def __init__(self, *, quiet: bool, answer: Callable[[KillReport], None] = lambda _: None) -> None:
        self._console = console(stderr=True)
        self._quiet = quiet
        self._answer = answer
        self._live: Live | None = None
        self._run: KillRun | None = None
        self.is_halted = False
        self.is_confirmed = False
        self.incident_id: str | None = None
        self.unconfirmed: str | None = None
        """Why the halt is not as durable as is configured."""

    def halted(self, status: Status, scope: str, after: float) -> None:
        self.is_halted, self.incident_id = True, status.incident_id
        self.unconfirmed = status.unconfirmed
        if not self._quiet:
            self._console.print(
                Text.assemble(
                    ("■ HALTED", "bold red"),
                    f"  {scope}  in {seconds(after)}  ",
                    (f"incident {status.incident_id}", "dim"),
                )
            )
        if status.unconfirmed:
            self._console.print(
                Text.assemble(
                    ("  ! NOT AS DURABLY AS CONFIGURED", "yellow"),
                    f"  a crash of Redis may lose the halt: {status.unconfirmed} Keep the engines stopped.",
                )
            )

    def not_halted(self, problem: object) -> None:
        self._console.print(Text.assemble(("✗ COULD NOT HALT", "bold red"), f"  {with_pastable(str(problem))}"))
        self._console.print("  Going on to cancel and flatten; gates that can't reach Redis close by themselves.")

    def standby_lost(self, why: str) -> None:
        self._console.print(Text.assemble(("! THE STANDBY WAS LOST", "bold yellow"), f"  {why}; going on here"))

    def began(self, run: KillRun) -> None:
        self._run = run

    def halted_late(self) -> None:
        self._console.print(Text.assemble(("■ HALTED", "bold red"), "  meanwhile, as Redis was back"))

    def no_broker(self) -> None:
        self._console.print(
            Text.assemble(
                ("✗ NOTHING WAS CANCELLED OR FLATTENED", "bold red"),
                "  no broker is configured. Close the book at the venue now; then add [accounts.NAME] to breaker.toml.",
            )
        )

    def not_flattened(self, error: Exception) -> None:
        self._console.print(
            Text.assemble(("✗ NOTHING WAS CANCELLED OR FLATTENED", "bold red"), f"  {with_pastable(str(error))}")
        )

    def not_confirmed(self) -> None:
        self._console.print(
            Text.assemble(
                ("✗ STOPPED AFTER THE TRIP", "bold red"),
                "  no terminal to ask on: nothing was cancelled or flattened. To go on, add --yes (make: YES=1).",
            )
        )

    def declined(self, coverage: Coverage) -> None:
        self._next(f"halted, but nothing was cancelled or flattened; to go on later: `{_again(coverage)}`")

    def interrupted(self, coverage: Coverage) -> None:
        """Ctrl-C has ended it; what was cancelled and closed until then stays so."""
        if self._run is not None and self._run.declined and self.is_halted:
            self.declined(coverage)
            return
        scope = coverage.scope
        said = "halted" if self.is_halted else f"not known to be halted: look with `breaker status{of_scope(scope)}`"
        if self._run is not None:
            said += f"; open at the last reading: {', '.join(map(_open, self._run.progress.values()))}"
            if elsewhere := [name for name in self._run.elsewhere if not self._run.progress[name].flat]:
                said += f"; workers go on with {', '.join(elsewhere)}"
        said += f"; to go on, which is safe: `{_again(coverage)}`"
        self._console.print(Text.assemble(("✗ INTERRUPTED", "bold red"), f"  {with_pastable(said)}"), soft_wrap=True)

    async def show_book(self, run: KillRun) -> None:
        """What is there and what it will take; an account that can't be read is named, not left out."""
        from tasks.kill.snapshot import Snapshot, take_snapshot  # noqa: PLC0415  after the halt

        locks = LockReading()
        if run.configuration is not None:
            locks = await asyncio.to_thread(read_venue_locks, run.configuration)
        ours = {lock.account for lock in locks.held}
        snapshots = await asyncio.gather(
            *(take_snapshot(broker, run.coverage, lock_is_ours=name in ours) for name, broker in run.brokers.items()),
            return_exceptions=True,
        )
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("account", "open orders", "positions", "long", "short", "requests", "at least"):
            table.add_column(column, justify="left" if column == "account" else "right")
        blocked: list[str] = []
        for name, taken in zip(run.brokers, snapshots, strict=True):
            if isinstance(taken, Snapshot):
                run.accounts[name].note_book(taken.book)
                table.add_row(name, *_book_cells(taken))
                blocked += [f"{name} {symbol}: {reason}" for symbol, reason in taken.forecast.blocked]
            elif isinstance(taken, BrokerError):
                table.add_row(name, "?", "?", "?", "?", "?", "?")
                blocked.append(str(taken))
            else:
                raise taken
        self._console.print(table)
        self._console.print(run.coverage.effect, style="bold")
        for lock in locks.held:
            if lock.account in run.brokers:
                self._console.print(Text.assemble(("  ▣ locked  ", "dim"), f"{lock}, and this run where it has to"))
        for line in blocked[:20]:
            self._console.print(Text.assemble(("  cannot be closed now  ", "yellow"), line))
        if len(blocked) > 20:
            self._console.print(f"  … and {len(blocked) - 20} more")

    async def confirmed(self, coverage: Coverage) -> bool:
        done = "Cancel these orders and flatten these positions" if coverage.positions_known else "Cancel these orders"
        prompt = f"{done}, and nothing else? Type {KILL_CONFIRMATION}: "
        self._console.print(prompt, end="")
        answer = await read_line()
        if answer is None:
            self._console.print()
        self.is_confirmed = answer is not None and answer.strip() == KILL_CONFIRMATION
        return self.is_confirmed

    def swept(self, results: Sequence[SweepResult], after: float) -> None:
        if self._quiet:
            return
        accepted = sum(result.accepted for result in results)
        kept = sum(result.protective for result in results)
        said = f"  {accepted} orders asked to cancel, {seconds(after)} after the start"
        self._console.print(Text.assemble(("▸ FIRST SWEEP", "bold"), said))
        if kept:
            self._console.print(f"  {kept} stay, as they protect positions until these are closed")
        for result in results:
            if result.problem:
                self._console.print(Text.assemble(("  ! ", "yellow"), result.problem))

    @contextmanager
    def live(self, run: RunProgress) -> Iterator[None]:
        """Progress that moves until the report; on something that is no terminal, nothing."""
        if self._quiet or not self._console.is_terminal:
            yield
            return
        self._live = Live(
            console=self._console, refresh_per_second=10, get_renderable=lambda: _progress(run), transient=True
        )
        with self._live:
            yield

    def report(self, report: KillReport) -> None:
        if self._quiet:
            return
        if self._live is not None:
            self._live.stop()
        out = self._console
        verdict = ("✓ FLAT", "bold green") if report.flat else ("✗ NOT FLAT", "bold red")
        out.print(
            Text.assemble(
                verdict,
                f"  {report.covers}",
                f"  halted {seconds(report.halted_after)} · no open orders {seconds(report.no_orders_after)}"
                f" · flat {seconds(report.flat_after)} · watched until {seconds(report.finished_after)}",
            )
        )
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("account", "result", "orders", "cancels", "positions", "closes", "rounds"):
            table.add_column(column, justify="left" if column in ("account", "result") else "right")
        for a in report.accounts:
            result = Text("✓ flat", "green") if a.flat else Text("✗ NOT FLAT", "red")
            orders, positions = (
                _left(a.orders_at_start, a.orders_open),
                _left(a.positions_at_start, a.positions_open),
            )
            table.add_row(a.account, result, orders, str(a.canceled), positions, str(a.closes_sent), str(a.rounds))
        out.print(table)
        for a in report.accounts:
            if a.note:
                out.print(Text.assemble(("  · note  ", "dim"), f"{a.account}: {a.note}"))
            for item in a.stuck:
                held = f"{item.quantity:f} held" if item.quantity else f"{item.open_orders} orders open"
                out.print(Text.assemble(("  ! stuck  ", "red"), f"{a.account} {item.symbol}, {held}: {item.reason}"))
            for item in a.dust:
                out.print(Text.assemble(("  · dust  ", "yellow"), f"{a.account} {item.symbol}: {item.reason}"))
            if a.venue_lock is not None:
                mark = ("  ▣ locked  ", "green") if a.venue_lock.engaged else ("  ! not locked  ", "yellow")
                out.print(Text.assemble(mark, f"{a.account}: {a.venue_lock.said}"))
        self.pending(report.pending_exits)
        if report.flat:
            walk = f"`breaker recover{of_scope(report.scope)}`"
            self._next(f"find out why: {walk} leads from there to the reset")
        elif report.pending_exits:
            self._next(f"{RESUMED_BY}; what is pending: `breaker status{of_scope(report.scope)}`")
        else:
            again = f"`breaker kill{of_scope(report.scope)}`"
            self._next(f"deal with what is stuck at the venue, or run it again, which is safe: {again}")

    def _next(self, step: str) -> None:
        self._console.print(Text.assemble(("next: ", "dim"), with_pastable(step)), soft_wrap=True)

    def costs(self, report: KillReport) -> None:
        """What the exit cost, account by account."""
        if self.is_halted:
            self._answer(report)
        if not self._quiet:
            for cost in report.costs:
                self._console.print()
                self._cost(without_fills(cost, COST_LINES))

    def _cost(self, cost: ExitCost) -> None:
        first, *rest = cost_text.headline(cost)
        self._console.print(Text.assemble(("▸ COST", "bold"), f"  {cost.account}  {first}"))
        if rest:
            self._console.print(Padding(" · ".join(rest), (0, 0, 0, 2)))
        if found := cost_text.sections(cost):
            table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
            for column in cost_text.COLUMNS:
                is_name = column == "symbol"  # which alone may take several lines; no number is cut
                table.add_column(column, justify="left" if is_name else "right", overflow="fold", no_wrap=not is_name)
            for rows in found:
                for row in rows[:-1]:
                    table.add_row(*row)
                table.add_row(*rows[-1], style="bold")
                table.add_section()
            self._console.print(Padding(table, (1, 0, 1, 2)))
        for remark in cost_text.remarks(cost):
            self._console.print(Padding(Text(remark, "dim" if cost.whole else ""), (0, 0, 0, 2)))

    def pending(self, exits: Sequence[PendingExit]) -> None:
        """What is tried again by itself, and when."""
        if not self._quiet:
            show_pending_exits(self._console, exits)

    def done_without(self, missing: Sequence[str]) -> None:
        """What could not be reached, known in full only when the orchestrator had its time too."""
        for what in missing:
            self._console.print(Text.assemble(("  ! done without ", "yellow"), with_pastable(what)))


def _book_cells(taken: Snapshot) -> list[str]:
    floor = taken.forecast.floor_seconds
    return [
        str(taken.orders),
        str(taken.positions),
        f"{taken.long_notional:,.0f} {taken.currency}",
        f"{taken.short_notional:,.0f} {taken.currency}",
        str(taken.forecast.requests),
        f"{floor:.0f} s" if floor else "seconds",
    ]


def _progress(run: RunProgress) -> Group:
    head = Text.assemble(("▸ ", "bold"), f"{run.elapsed:5.1f} s  ", (f"incident {run.incident_id}", "dim"))
    table = Table.grid(padding=(0, 2))
    for account in run.progress.values():
        bar = ProgressBar(total=1.0, completed=account.done, width=24)
        table.add_row(account.account, account.phase, bar, _counts(account), Text(account.note[:80], "yellow"))
    return Group(head, table)


def _counts(account: AccountProgress) -> str:
    return (
        f"orders {_left(account.orders_at_start, account.orders_open)}  "
        f"positions {_left(account.positions_at_start, account.positions_open)}"
    )


def _open(account: AccountProgress) -> str:
    orders, positions = (
        f"{'an unknown number of' if number is None else number} {what}"
        for number, what in ((account.orders_open, "orders"), (account.positions_open, "positions"))
    )
    return f"{account.account} {orders} and {positions}"


def _left(start: int | None, now: int | None) -> str:
    return f"{count(start)} → {count(now)}"


def _again(coverage: Coverage) -> str:
    """The command that does the same, and touches no more."""
    narrowed = not coverage.every_account and not coverage.scope.startswith("account:")
    accounts = "".join(f" --account {name}" for name in coverage.accounts) if narrowed else ""
    return f"breaker kill{of_scope(coverage.scope)}{accounts}"
