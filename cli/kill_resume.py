"""Resume what is pending by hand: `breaker kill --resume`."""

from __future__ import annotations

import asyncio
import json

import typer

from breaker.errors import InvalidInput
from brokers.coverage import Coverage
from cli.exit_codes import Exit
from cli.kill_view import KillView
from cli.messages import say
from configuration.orchestrator import set_prefect_timeouts
from configuration.settings import Settings
from tasks.kill.pending_exit_store import read_pending_exits
from tasks.kill.report import RESUMED_BY

SHOWN = 5
"""Exits that are named on one line."""


def resume_by_hand(settings: Settings, operator: str, coverage: Coverage, view: KillView, *, as_json: bool) -> Exit:
    """Resume everything that is pending in the accounts, due or not. Returns the exit status.

    Nothing is asked: what is closed here was confirmed when the kill switch was. Raises InvalidInput for a part of an
    account: a resumption closes whatever the kill switch that left it covered.
    """
    if not coverage.whole_accounts:
        raise InvalidInput(
            f"--resume takes whole accounts, and {coverage.scope} is a part of them; nothing was done. "
            "Name --account or --scope account:NAME"
        )
    accounts = coverage.accounts
    reading = read_pending_exits(settings)
    pending = [each for each in reading.exits if each.account in accounts]
    for problem in (*reading.problems, *reading.elsewhere):
        say(problem)
    if not pending:
        if as_json:
            typer.echo(json.dumps([]))
        else:
            typer.echo("Nothing is pending: there is nothing to resume.")
        return Exit.OK
    view.pending(pending)
    set_prefect_timeouts()
    try:
        from flows.resume import outcome, resume_exits  # noqa: PLC0415  Prefect is slow to import

        resumed = asyncio.run(
            resume_exits(
                settings,
                operator=operator,
                source="cli",
                accounts=accounts,
                due_for=None,
                announce=view.report,
                announce_costs=view.costs,
            )
        )
    except KeyboardInterrupt:
        what = ", ".join([each.what for each in pending[:SHOWN]] + ["…"] * (len(pending) > SHOWN))
        say(
            f"interrupted while resuming {what}: what was sent to the venue stands, nothing more is. It stays pending; "
            f"{RESUMED_BY[0].lower()}{RESUMED_BY[1:]}"
        )
        return Exit.NOT_FLAT
    if as_json:
        typer.echo(json.dumps([each.report.as_dict() if each.report else {"held": each.held} for each in resumed]))
    for each in resumed:
        if each.report is None:
            say(outcome(each))
    if not any(each.report for each in resumed):
        if not resumed:
            say("somebody else is resuming this just now; nothing was done here")
        return Exit.REFUSED
    return Exit.OK if all(each.report and each.report.flat for each in resumed) else Exit.NOT_FLAT
