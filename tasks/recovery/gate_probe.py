"""Measure what a gate admits while a reset is watched: one of our own, which hears of the breaker as an engine's."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

from breaker.gate import Gate, OrderIntent
from breaker.gate.decision import Decision, Reason
from breaker.keys import GLOBAL
from configuration.settings import Settings
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe

PATIENCE = 2.0
"""Seconds that a gate may take to hear of the state before it counts as refusing."""
_PROBE_ORDER = OrderIntent("WATCH", "buy", 1, normal_quantity=1_000)
"""New risk far below any quiet period's limit. It is only judged, never sent."""
_NOT_YET = (Reason.BEING_READ, Reason.NOT_CONNECTED, Reason.STALE)


class GateProbe:
    """A gate on the breaker of `scope`, for as long as the watch lasts."""

    def __init__(self, settings: Settings, scope: str) -> None:
        scopes = () if scope == GLOBAL else (scope,)
        self._gate = Gate(settings.redis_address.get_secret_value(), scopes=scopes, report=False)

    async def measure(self) -> Measurement:
        """Whether it admits a small order that adds risk: red when it doesn't though the breaker is not tripped."""
        probe = Probe("gate", "a small order is admitted", "a gate of the watch's own")
        decision = await self._decision()
        if decision or decision.reason is Reason.QUIET_RATE:
            return probe.measured(decision.sentence or "open: orders are admitted")
        return probe.measured("refuses", Colour.RED, decision.sentence)

    async def _decision(self) -> Decision:
        deadline = time.monotonic() + PATIENCE
        while True:
            decision = self._gate.check(_PROBE_ORDER, 0)
            if decision or decision.reason not in _NOT_YET or time.monotonic() > deadline:
                return decision
            await asyncio.sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._gate.close()
