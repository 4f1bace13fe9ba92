"""The verification served on a schedule in a process of its own, as a deployment of it is: `python -m … SECONDS`.

The schedule begins SECONDS from now, which gives the server time to take note of it, and then goes on every minute.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta

from prefect import aserve
from prefect.schedules import Interval

from configuration.running import RunningConfiguration
from flows.health_verification import health_verification
from tasks.running_services import SERVE, reported


async def main(begins: float) -> None:
    schedule = Interval(timedelta(minutes=1), anchor_date=datetime.now(UTC) + timedelta(seconds=begins))
    with reported(SERVE, RunningConfiguration.load()):
        await aserve(await health_verification.ato_deployment("health-verification", schedule=schedule))


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
