"""One run of the kill switch in a process of its own, as the command line makes it: `python -m … INCIDENT`.

Prints one JSON line with the result when it is announced, one with what the exit cost, and one when the orchestrator
has recorded the run or can't.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from typing import Any

from flows.kill_context import open_kill_run
from flows.kill_switch import run_kill_switch
from tasks.kill.report import KillReport
from tasks.kill.run import KillRun


def say(word: str, run: KillRun, **more: Any) -> None:
    print(json.dumps({"said": word, "after": run.elapsed, **more}), flush=True)


async def main(incident_id: str) -> None:
    async with open_kill_run(reason="a test | of <reasons>", operator="tests", incident_id=incident_id) as run:

        def announce(report: KillReport) -> None:
            say("result", run, report=report.as_dict())

        def announce_costs(report: KillReport) -> None:
            say("costs", run, costs=report.as_dict()["costs"])

        await run_kill_switch(run, announce, announce_costs)
        say("end", run, missing=run.missing)


def leave() -> None:
    """As the command line does: in order, so that a temporary orchestrator is stopped, but not for ever."""
    time.sleep(5)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
    threading.Thread(target=leave, daemon=True).start()
