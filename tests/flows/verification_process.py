"""The verification served on a schedule in a process of its own, as a deployment of it is: `python -m … SECONDS`."""

from __future__ import annotations

import asyncio
import sys

from prefect import aserve

from flows.health_verification import health_verification


async def main(every: float) -> None:
    await aserve(await health_verification.ato_deployment("health-verification", interval=every))


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
