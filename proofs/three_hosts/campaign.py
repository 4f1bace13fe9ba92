"""Run the chosen cases on one topology, heal it between them, and tell of each as it ends."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from proofs.three_hosts.kill_case import Outcome as KillOutcome
from proofs.three_hosts.kill_case import run_kill
from proofs.three_hosts.losses import KillCase, RecoveryCase
from proofs.three_hosts.recovery_case import Outcome as RecoveryOutcome
from proofs.three_hosts.recovery_case import run_recovery
from proofs.three_hosts.topology import Topology

REBUILDS: Final = 3
"""How often a topology that did not heal is made anew, before the campaign is given up."""


@dataclass
class Campaign:
    """What came of it, in the order in which it was run."""

    began: float = field(default_factory=time.monotonic)
    kills: list[KillOutcome] = field(default_factory=list)
    recoveries: list[RecoveryOutcome] = field(default_factory=list)
    unhealed: list[str] = field(default_factory=list)
    """What the topology did not come back from, or could not be judged after."""

    @property
    def red(self) -> int:
        broken = [*(each.broken for each in self.kills), *(each.broken for each in self.recoveries)]
        return len(self.unhealed) + sum(map(bool, broken))

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def name_of(case: KillCase | RecoveryCase) -> str:
    if isinstance(case, KillCase):
        return f"kill/{case.phase}/{case.loss}"
    cells = (each for each in (case.early, case.late) if each is not None)
    return "recovery/" + "; ".join(f"{phase}/{loss}" for phase, loss in cells)


def run(cases: Sequence[KillCase | RecoveryCase], only: str, minutes: float, say: Callable[[str], None]) -> Campaign:
    """Those of the cases whose name matches, until so many minutes have gone by.

    Of what is red the logs stay, in the folder that is named.
    """
    campaign = Campaign()
    wanted = [case for case in cases if fnmatch(name_of(case), only)]
    for _ in range(REBUILDS):
        if not wanted or campaign.seconds >= 60 * minutes:
            break
        home = Path(tempfile.mkdtemp(prefix="hosts-"))
        red_before = campaign.red
        _run_on_one(home, wanted, campaign, 60 * minutes, say)
        if campaign.red == red_before:
            shutil.rmtree(home)
        else:
            say(f"logs of what is red: {home}")
    return campaign


def _run_on_one(
    home: Path,
    wanted: list[KillCase | RecoveryCase],
    campaign: Campaign,
    until: float,
    say: Callable[[str], None],
) -> None:
    """Takes the cases off the list as it goes; returns early where the topology can't be used any more."""
    begun = time.monotonic()
    with Topology(home) as topology:
        say(f"three hosts stand after {time.monotonic() - begun:.0f} s")
        recoveries_begin = False
        while wanted and campaign.seconds < until:
            case = wanted.pop(0)
            try:
                if recoveries_begin is isinstance(case, KillCase):
                    recoveries_begin = not recoveries_begin
                    topology.have_recoveries(begin=recoveries_begin)
                if isinstance(case, KillCase):
                    campaign.kills.append(run_kill(topology, case, len(campaign.kills)))
                    say(str(campaign.kills[-1]))
                else:
                    campaign.recoveries.append(run_recovery(topology, case))
                    say(str(campaign.recoveries[-1]))
            except Exception as error:  # what one case leaves behind must not colour the next
                campaign.unhealed.append(f"{name_of(case)}: {type(error).__name__}: {error}")
                say(f"RED {campaign.unhealed[-1]}")
                return
