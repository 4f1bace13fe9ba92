"""Cancel everything in one bulk request per account, all at once, before anything slow is even imported."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from brokers.protocol import Broker, BrokerError, CancelOutcome


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What one account's venue answered. `accepted` cancels are not gone yet, only asked to go."""

    account: str
    accepted: int
    refused: int
    problem: str = ""


async def first_sweep(brokers: Iterable[Broker], timeout: float) -> list[SweepResult]:
    """Ask every account's venue to cancel everything, all at once; what fails is told in its `problem`."""
    return list(await asyncio.gather(*(_sweep(broker, timeout) for broker in brokers)))


async def _sweep(broker: Broker, timeout: float) -> SweepResult:
    try:
        async with asyncio.timeout(timeout):
            results = await broker.cancel_all()
    except TimeoutError:
        return SweepResult(broker.name, 0, 0, f"{broker.name}: no answer to the first sweep within {timeout:g} s")
    except BrokerError as error:
        return SweepResult(broker.name, 0, 0, str(error))
    except Exception as error:  # a mistake in one account's adapter must not stop the others
        return SweepResult(broker.name, 0, 0, f"{broker.name}: {type(error).__name__}: {error}")
    accepted = sum(result.outcome is CancelOutcome.ACCEPTED for result in results)
    refused = sum(result.outcome in (CancelOutcome.REFUSED, CancelOutcome.UNKNOWN) for result in results)
    return SweepResult(broker.name, accepted, refused)
