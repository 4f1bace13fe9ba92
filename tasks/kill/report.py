"""Report what a run of the kill switch did: as data, as JSON and as the page that people read afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from configuration.printed_commands import with_pastable
from tasks.kill import cost_text
from tasks.kill.account import AccountProgress
from tasks.kill.cost import ExitCost, without_fills
from tasks.kill.pending_exits import PendingExit, as_dict
from tasks.markdown import cell

if TYPE_CHECKING:
    from pydantic import TypeAdapter


class AccountsTogether:
    """Derive what a run came to from where each of its accounts stands."""

    __slots__ = ()
    accounts: tuple[AccountProgress, ...]
    unknown: str
    """Why an account that is configured may be missing in `accounts`; empty where none is."""

    @property
    def every_account_flat(self) -> bool:
        """Never true of a run without accounts, nor where one may be missing."""
        return bool(self.accounts) and not self.unknown and all(account.flat for account in self.accounts)

    @property
    def flat(self) -> bool:
        """Whether the book is proven flat."""
        return self.every_account_flat

    @property
    def no_orders_after(self) -> float | None:
        """Seconds until the last venue listed no open order; None while one still does."""
        return _latest(account.no_orders_after for account in self.accounts)

    @property
    def flat_after(self) -> float | None:
        """Seconds until the last account was flat; None while not all of them are."""
        return _latest(account.flat_after for account in self.accounts) if self.flat else None


@dataclass(frozen=True, slots=True)
class KillReport(AccountsTogether):
    """Durations are seconds from the start of the run."""

    incident_id: str
    reason: str
    operator: str
    scope: str
    """Of the breaker that was tripped."""
    covers: str
    """What of which accounts it speaks of, and nothing else."""
    started_at: datetime
    halted_after: float | None
    first_sweep_after: float | None
    finished_after: float
    accounts: tuple[AccountProgress, ...]
    missing: tuple[str, ...]
    pending_exits: tuple[PendingExit, ...] = ()
    """What is tried again by itself, in its accounts."""
    costs: tuple[ExitCost, ...] = ()
    """What the exit cost, by account. Read when the rest is known: until then there is none."""
    unknown: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON types only: decimals and times as strings."""
        body: dict[str, Any] = _plain(dataclasses.asdict(self))
        body["pending_exits"] = [as_dict(pending) for pending in self.pending_exits]
        return {"flat": self.flat, **body, "no_orders_after": self.no_orders_after, "flat_after": self.flat_after}


RECORDED_LINES = 200
"""The dearest lines of what an exit cost that are kept on record; each has a few hundred bytes there."""
RESUMED_BY = "Tried again until flat by the served deployments or a standby; by hand: `breaker kill --resume`"
NOT_RESUMED = "Nothing else is sent for these. Run the kill switch again when the reason is gone."


def cost_record(cost: ExitCost) -> dict[str, Any]:
    """What an exit cost, as it is kept on record: without single fills, JSON types only."""
    body: dict[str, Any] = _plain(dataclasses.asdict(without_fills(cost, RECORDED_LINES)))
    del body["fills"]
    return body


def cost_of_record(record: Mapping[str, Any]) -> ExitCost:
    """What `cost_record` has written. Raises ValueError."""
    return _cost_adapter().validate_python(dict(record), strict=False)


@cache
def _cost_adapter() -> TypeAdapter[ExitCost]:
    from pydantic import TypeAdapter  # noqa: PLC0415  only where something is read back

    return TypeAdapter(ExitCost)


def seconds(value: float | None) -> str:
    """A duration as people read it; a dash where the moment never came."""
    if value is None:
        return "—"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def count(number: object) -> str:
    """A number as people read it; a dash where it has not been read, which is not the same as none."""
    return "–" if number is None else f"{number}"


def markdown(report: KillReport) -> str:
    """The report as the orchestrator's UI shows it."""
    verdict = "FLAT" if report.flat else "NOT FLAT"
    lines = [
        f"# Kill switch: {verdict}",
        "",
        f"{cell(report.covers)} (scope `{report.scope}`)",
        "",
        f"Incident `{report.incident_id}` · {report.started_at:%Y-%m-%d %H:%M:%S} UTC · by {cell(report.operator)}",
        "",
        f"Reason: {cell(report.reason)}",
        "",
        "| halted | first sweep | no open orders | flat | finished |",
        "| --- | --- | --- | --- | --- |",
        f"| {seconds(report.halted_after)} | {seconds(report.first_sweep_after)} | {seconds(report.no_orders_after)} "
        f"| {seconds(report.flat_after)} | {seconds(report.finished_after)} |",
        "",
        "| account | result | orders at start | cancels accepted | positions at start | closes sent | rounds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {a.account} | {'flat' if a.flat else 'NOT FLAT'} | {count(a.orders_at_start)} | {a.canceled} "
        f"| {count(a.positions_at_start)} | {a.closes_sent} | {a.rounds} |"
        for a in report.accounts
    ]
    stuck = [(account, item) for account in report.accounts for item in account.stuck]
    if stuck:
        lines += [
            "",
            "## Stuck",
            "",
            "| account | symbol | position | open orders | why |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {account.account} | {item.symbol} | {item.quantity:f} | {item.open_orders} | {cell(item.reason)} |"
            for account, item in stuck
        ]
        lines += ["", with_pastable(RESUMED_BY) if report.pending_exits else NOT_RESUMED]
        lines += [f"- {cell(str(pending))}" for pending in report.pending_exits]
    if report.costs:
        shown = [without_fills(cost, RECORDED_LINES) for cost in report.costs]
        lines += ["", "## What the exit cost", "", *cost_text.markdown(shown)]
    dust = [(account, item) for account in report.accounts for item in account.dust]
    if dust:
        lines += [
            "",
            "## Dust",
            "",
            *(f"- {account.account} {item.symbol}: {cell(item.reason)}" for account, item in dust),
        ]
    locks = [(account.account, account.venue_lock) for account in report.accounts if account.venue_lock]
    if locks:
        lines += ["", "## Lock at the venue", "", *(f"- {name}: {cell(lock.said)}" for name, lock in locks)]
    notes = [f"- {account.account}: {cell(account.note)}" for account in report.accounts if account.note]
    if notes:
        lines += ["", "## Notes", "", *notes]
    if report.missing:
        lines += ["", "## Done without", "", *(f"- {cell(item)}" for item in report.missing)]
    return "\n".join(lines) + "\n"


def close_rows(report: KillReport) -> list[dict[str, Any]]:
    """One row a close that was sent, for a table."""
    return [
        {"account": account.account, **_plain(dataclasses.asdict(close))}
        for account in report.accounts
        for close in account.closes
    ]


def _latest(moments: Iterable[float | None]) -> float | None:
    """The last of them; None if there is none, or one has not come."""
    latest: float | None = None
    for moment in moments:
        if moment is None:
            return None
        latest = moment if latest is None else max(latest, moment)
    return latest


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
