"""Measure whether something answers over HTTP."""

from __future__ import annotations

from time import perf_counter

import httpx

from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, measure_within

_DEADLINE = 3.0
_SLOW = 1.0


async def measure_http(name: str, url: str, remedy: str) -> Measurement:
    """Whether `url` answers 200 in time. `remedy` says what to do when it doesn't."""
    probe = Probe(name, f"200 within {_SLOW:g} s", f"GET {url}")

    async def measure() -> Measurement:
        begun = perf_counter()
        try:
            async with httpx.AsyncClient(timeout=_DEADLINE) as client:
                answer = await client.get(url)
        except httpx.TransportError as error:
            return probe.measured("down", Colour.RED, f"It does not answer ({type(error).__name__}): {remedy}.")
        took = perf_counter() - begun
        value = f"{answer.status_code} after {took * 1000:.0f} ms"
        if answer.status_code != httpx.codes.OK:
            return probe.measured(value, Colour.RED, f"It answers {answer.status_code}: see its log.")
        return probe.measured(value, Colour.YELLOW, "It is slow.") if took > _SLOW else probe.measured(value)

    return await measure_within(probe, _DEADLINE + 1, measure())
