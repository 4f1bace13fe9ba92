"""Write what a campaign found as a page of the documentation. Pure."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from proofs.three_hosts.campaign import Campaign
from proofs.three_hosts.kill_case import Outcome as KillOutcome
from proofs.three_hosts.losses import KILL_PHASES, LOSSES, RECOVERY_EARLY, RECOVERY_LATE, Loss
from proofs.three_hosts.recovery_case import LASTS, Cell
from proofs.three_hosts.topology import STALENESS

EVIDENCE: Final = Path(__file__).parents[2] / "docs" / "evidence" / "three-hosts.md"

FOUND: Final = """\
## What it has found

Each was put right; in brackets the test that holds it.

- A standby that died, or stood still, in its first sweep had left no sign of life: nobody took the kill over, and all
  positions stayed open (`tests/flows/test_kill_start.py`).
- A kill that was taken over within a minute of one of another incident: one of the two runs had got no answer from
  Redis and named its closes by its own incident, the other by the earlier one. The venue took both, and a position was
  turned over (`tests/flows/test_two_kills.py`, `tests/services/test_kill_takeover.py`).
- On a busy host no sign of life came through within half a second, and the kill was not taken over when the host stood
  still. It gets two seconds now.
- A host that had been cut off while it watched a reset tripped by what it could not measure, though another one had
  begun the watch anew (`tests/tasks/recovery/test_reset_watch.py`).
"""


def report(campaign: Campaign, seed: int) -> str:
    kills = {(each.case.loss, each.case.phase): each for each in campaign.kills}
    cells = [(cell, bool(outcome.broken)) for outcome in campaign.recoveries for cell in outcome.cells]
    recoveries = {(cell.loss, cell.phase): (cell, red) for cell, red in cells}
    phases = (*RECOVERY_EARLY, *RECOVERY_LATE)
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    return f"""# Three hosts, each thing lost at each phase

Written by `make three-hosts` on {datetime.now(UTC).date()} ({machine}), seed {seed}: {len(campaign.kills)} kill
switches and {len(cells)} losses in {len(campaign.recoveries)} recoveries, {campaign.red} red, in \
{campaign.seconds / 60:.0f} min.

The topology of [three hosts](../how-to/three-hosts.md), each host a network namespace on a bridge, with a host name and
a state directory of its own: Redis and a Sentinel on each; PostgreSQL on A, streamed to a standby on B that nobody
promotes; Prefect's server on A; on each a worker of the pool, `breaker services` and `breaker standby`; on C an engine
with two gates, which wait for one replica and for two. The venue is the paper exchange in a namespace of its own. The
topology is healed between the cases, and not made anew: Redis's primary is where the last failover has left it, and
there is one ledger, whose whole chain is verified after each case. Every case is a draw from {len(LOSSES)} losses times
{len(KILL_PHASES)} phases of a kill and {len(phases)} of a recovery; what was not drawn is blank.

*SIGKILL* and *SIGSTOP* of a host are of everything on it at once; of a service, of its process and all that it has
started. A cable that is cut lets nothing through and tells nobody. What was lost comes back only after the venue was
flat; in a recovery after {LASTS:g} s.

## A kill switch

`breaker kill --yes` is typed on C (on B where C is lost before). One of the six positions can't be closed before
1.5 s after the loss, so that somebody has to be left who closes it. Trips begin no recovery meanwhile, and nothing is
verified by schedule: that is for the recoveries, and one machine has to do it all. In a cell: seconds from the command
until Redis had the trip / until the venue was flat / from the loss or the command, whichever came later, until the last
order that a gate let through.

{_table("lost", KILL_PHASES, LOSSES, lambda loss, phase: _kill(kills.get((loss, phase))))}

Judged, once all is healed, what was frozen has gone on and what waits has been delivered: flat before anything was
healed, and still; no close too large, none beside another, no position turned over; each close that the venue took on
record; the breaker TRIPPED, a trip that was reported as confirmed still there; no gate open later than
{STALENESS * 1000:.0f} ms after the trip; each transition in exactly one row, no row twice, the chain whole, nothing
left waiting.

## A recovery

A trip by hand; two people answer as soon as they are asked. In a cell: seconds from the loss until the recovery was at
its next phase: the health checks, the question for approval, the reset, or, after the reset, OPEN or tripped again with
the checklist begun anew.

{_table("lost", phases, LOSSES, lambda loss, phase: _recovery(recoveries.get((loss, phase))))}

Judged: it went on by itself to its end, or tripped again and began anew; one reset at most, by the one who approved it,
and not before; the gates as above, and again after a second trip; the ledger as above.

{_red(campaign)}
{FOUND}"""


def _table(corner: str, columns: Sequence[str], rows: Iterable[Loss], cell: Callable[[Loss, str], str]) -> str:
    lines = [f"| {corner} | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    lines += [f"| {loss} | {' | '.join(cell(loss, column) for column in columns)} |" for loss in rows]
    return "\n".join(lines)


def _kill(outcome: KillOutcome | None) -> str:
    if outcome is None:
        return ""
    figures = " / ".join(_s(each) for each in (outcome.tripped, outcome.flat, outcome.closed))
    return f"{'✗ ' if outcome.broken else ''}{figures}"


def _recovery(found: tuple[Cell, bool] | None) -> str:
    if found is None:
        return ""
    cell, red = found
    return f"{'✗ ' if red else ''}{_s(cell.went_on)}"


def _red(campaign: Campaign) -> str:
    """What is marked ✗, in words; a sentence where there is none."""
    lines = [
        f"- ✗ {outcome.case.phase}, {outcome.case.loss} ({outcome.where}): {'; '.join(outcome.broken)}"
        for outcome in campaign.kills
        if outcome.broken
    ]
    lines += [
        f"- ✗ {'; '.join(f'{cell.phase}, {cell.loss} ({cell.where})' for cell in outcome.cells)}: "
        f"{'; '.join(outcome.broken)}"
        for outcome in campaign.recoveries
        if outcome.broken
    ]
    lines += [f"- ✗ could not be judged: {each}" for each in campaign.unhealed]
    return "\n".join(lines) + "\n" if lines else "No promise was broken.\n"


def _s(seconds: float | None) -> str:
    return "—" if seconds is None else f"{seconds:.1f}"
