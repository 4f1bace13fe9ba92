"""Ask a broker within a limit, and say what its contract asks for where it breaks that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from brokers.contract.venue import Keys, Trouble, VenueUnderTest
from brokers.protocol import Broker, BrokerError

ANSWERS_WITHIN = 2.0
"""Seconds that a broker may wait for one answer, where none is missing."""
GIVES_UP_AFTER = 0.3
"""The same where none will come."""
PATIENCE = 30.0
"""Seconds in which everything ends that ends at all, also on a machine that does something else meanwhile."""

_T = TypeVar("_T")


def ask(
    venue: VenueUnderTest,
    question: Callable[[Broker], Awaitable[_T]],
    *,
    timeout: float = ANSWERS_WITHIN,
    keys: Keys = Keys.GOOD,
) -> _T:
    """The answer, by a broker that is opened for it and closed afterwards, with an event loop of its own."""

    async def asked() -> _T:
        broker = venue.broker(timeout=timeout, keys=keys)
        limit = asyncio.timeout(2 * PATIENCE)
        try:
            async with limit:
                return await question(broker)
        except TimeoutError:
            if limit.expired():
                pytest.fail(
                    f"it did not end by itself within {2 * PATIENCE:g} s; every call has a deadline", pytrace=False
                )
            raise
        finally:
            await broker.aclose()

    return asyncio.run(asked())


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for what the venue does a moment later."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {PATIENCE:g} s: {what}", pytrace=False)
        await asyncio.sleep(0.02)


async def error_of(broker: Broker, asked: Awaitable[object], secret: str) -> BrokerError | None:
    """What it raised, if that is what a broker may raise: one line that names the account and no secret."""
    try:
        await asked
    except BrokerError as error:
        said = str(error)
        assert "\n" not in said.strip(), f"an error is one line: {said!r}"
        assert broker.name in said, f"an error names the account: {said!r}"
        assert error.account == broker.name, "`BrokerError.account` is the account's name"
        assert secret not in said, "an error tells the secret key"
        return error
    return None


def needs(venue: VenueUnderTest, trouble: Trouble) -> None:
    """Skip what can't be checked with this venue."""
    if trouble not in venue.troubles:
        pytest.skip(f"the venue under test can't be brought into trouble of the kind: {trouble}")
