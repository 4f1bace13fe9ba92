"""Say what people are told of a kill switch's end. Pure."""

from __future__ import annotations

from tasks.kill.account import AccountProgress
from tasks.kill.cost_text import in_a_line
from tasks.kill.report import NOT_RESUMED, RESUMED_BY, KillReport, count, seconds
from tasks.notification import Notification, NotificationKind, Severity


def kill_notifications(report: KillReport, link: str | None) -> list[Notification]:
    """The report, and apart from it what is stuck, since that needs somebody now."""
    verdict = f"FLAT after {seconds(report.flat_after)}" if report.flat else "NOT FLAT"
    lines = [f"{report.reason} (by {report.operator})", *(_account(account) for account in report.accounts)]
    lines += [f"{cost.account}: {said}" for cost in report.costs if (said := in_a_line(cost))]
    lines += [f"{account.account}: {account.venue_lock.said}" for account in report.accounts if account.venue_lock]
    lines += [f"Done without {missing}" for missing in report.missing]
    notes = [
        Notification(
            kind=NotificationKind.KILL_REPORT,
            incident_id=report.incident_id,
            title=f"Kill switch: {verdict}: {report.covers}",
            body="\n".join(lines),
            severity=_severity(report),
            link=link,
        )
    ]
    stuck = [
        f"{item.symbol} {item.quantity:f} in {account.account}: {item.reason}"
        for account in report.accounts
        for item in account.stuck
    ]
    if stuck or report.pending_exits:
        notes.append(
            Notification(
                kind=NotificationKind.STUCK,
                incident_id=report.incident_id,
                title=f"{len(stuck)} positions can't be closed now" if stuck else "An account can't be closed now",
                body="\n".join([*stuck, *_what_follows(report)]),
                severity="critical",
                link=link,
            )
        )
    return notes


def _severity(report: KillReport) -> Severity:
    if not report.flat:
        return "critical"
    unlocked = any(account.venue_lock and not account.venue_lock.engaged for account in report.accounts)
    return "warning" if unlocked else "info"


def _what_follows(report: KillReport) -> list[str]:
    if not report.pending_exits:
        return [NOT_RESUMED]
    first = (f"{pending.what}: {pending.next_try:%Y-%m-%d %H:%M:%S} UTC" for pending in report.pending_exits)
    return [f"{RESUMED_BY}. First at:", *first]


def _account(account: AccountProgress) -> str:
    if account.flat:
        return f"{account.account}: flat, {account.canceled} cancels, {account.closes_sent} closes"
    left = f"{count(account.orders_open)} orders and {count(account.positions_open)} positions left"
    return f"{account.account}: NOT FLAT, {left}" + (f" ({account.note})" if account.note else "")
