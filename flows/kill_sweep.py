"""Send the first sweep to every account at once, and let each go on by itself as soon as its venue has answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from brokers.sweep import SweepResult, sweep_account

if TYPE_CHECKING:
    from brokers.coverage import Coverage
    from brokers.protocol import Broker
    from configuration.settings import KillSettings
    from tasks.kill.run import KillRun

TOGETHER = 1.0
"""Seconds from its beginning for which accounts that have answered wait for the others.

Next comes importing the orchestrator's client, which takes the interpreter as an adapter's import does. Begun beside
ccxt's it made that account's first cancel half a second later and the others' closes no earlier: they need both.
"""
LETS_GO_WITHIN = 1.0
"""Seconds that an adapter may take to end what it is told to end."""


class FirstSweep:
    """The first sweep of one kill switch. Left before its end, it is ended: what was sent stays sent.

    Args:
        started: When the kill switch was asked for, by `time.monotonic()`.
        coverage: What of the accounts may be cancelled.
        settings: Its time limit, and which orders go at once.
        show: Called once with what all have answered, and seconds from the start.
    """

    def __init__(
        self,
        started: float,
        coverage: Coverage,
        settings: KillSettings,
        show: Callable[[Sequence[SweepResult], float], None],
    ) -> None:
        self._started, self._coverage, self._settings, self._show = started, coverage, settings, show
        self._parts: dict[str, asyncio.Task[SweepResult]] = {}
        self._after: dict[str, float] = {}
        """By account that has answered, or has not in its time, seconds from the start."""
        self._shown = False
        self._following: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [*self._parts.values(), *self._following]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LETS_GO_WITHIN)

    @property
    def begun(self) -> bool:
        """Whether it has been sent, or is about to be."""
        return bool(self._parts)

    def begin(self, brokers: Mapping[str, Broker], incident_id: str) -> None:
        """Send it. Closes of this incident stay, as `sweep_account` says."""
        from tasks.kill.memory import attempt_of  # noqa: PLC0415  after the trip

        async def sweep(name: str, broker: Broker) -> SweepResult:
            result = await sweep_account(
                broker,
                self._settings.first_sweep_timeout,
                self._settings.cancel,
                lambda order: attempt_of(order, incident_id) is not None,
                self._coverage,
            )
            self._after[name] = time.monotonic() - self._started
            return result

        self._parts = {name: asyncio.create_task(sweep(name, broker)) for name, broker in brokers.items()}

    async def answered(self) -> None:
        """Wait until every account has answered, or one has and the others were waited for `TOGETHER`.

        Not for adapters none of which lets go when its time is up: the run's deadline bounds what waits for them.
        """
        await asyncio.wait(self._parts.values(), timeout=TOGETHER)
        most = self._settings.first_sweep_timeout + LETS_GO_WITHIN
        await asyncio.wait(self._parts.values(), timeout=most, return_when=asyncio.FIRST_COMPLETED)
        self._show_once_whole()

    def hand_to(self, run: KillRun) -> None:
        """Tell the run what was answered, and what is answered from now on, before it closes anything there."""
        for name, part in self._parts.items():
            if part.done():
                self._tell(run, name)
            else:
                following = asyncio.create_task(self._follow(run, name))
                run.sweeping[name] = following
                self._following.append(following)

    async def _follow(self, run: KillRun, name: str) -> None:
        await asyncio.wait({self._parts[name]})
        self._tell(run, name)
        self._show_once_whole()

    def _tell(self, run: KillRun, name: str) -> None:
        from flows.kill_context import record_sweep  # noqa: PLC0415  after the trip

        if all(part.done() for part in self._parts.values()):
            run.first_sweep_after = max(self._after.values())
        record_sweep(run, [self._parts[name].result()], self._after[name])

    def _show_once_whole(self) -> None:
        if not self._shown and all(part.done() for part in self._parts.values()):
            self._shown = True
            results = [part.result() for part in self._parts.values()]
            self._show(results, max(self._after.values()))
