"""An adapter of the paper exchange whose venue has a timer of its own, by the exchange's clock and over HTTP."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from brokers.alpaca import AlpacaBroker
from brokers.protocol import BrokerUnavailable, SafetyNet
from configuration.accounts import AccountSettings

ADAPTER = ("tests.services.timer_venue", "from_settings")
"""As `brokers.registry` has its adapters."""
KEEPER = """
import asyncio, signal
from configuration.settings import load_settings
from services.safety_nets import SafetyNets
from tests.services.timer_venue import from_settings

nets = SafetyNets(load_settings(), open_account=from_settings, every=0.1)
signal.signal(signal.SIGTERM, lambda *_: nets.stop())
asyncio.run(nets.run())
"""
"""A program that keeps the timers of whatever is configured, all by this adapter, until SIGTERM."""


class TimerBroker(AlpacaBroker):
    """`scale`: seconds of the exchange's clock in a real one."""

    def __init__(self, name: str, account: AccountSettings, scale: float = 1.0) -> None:
        super().__init__(
            name,
            str(account.base_url),
            "key",
            "secret",
            timeout=account.request_timeout,
            requests_per_minute=1_000_000,
        )
        self.capabilities = replace(self.capabilities, safety_net=True)
        self._timers = httpx.AsyncClient(base_url=str(account.base_url), timeout=account.request_timeout)
        self._scale = scale

    async def arm_safety_net(self, timeout: timedelta) -> SafetyNet:
        return self._read(await self._send(timeout.total_seconds()))

    async def disarm_safety_net(self) -> None:
        await self._send(0)

    async def safety_net(self) -> SafetyNet:
        try:
            report = (await self._timers.get("/_paper/report")).json()
        except httpx.HTTPError as error:
            raise BrokerUnavailable(f"{self.name}: the exchange did not answer: {error!r}", account=self.name) from None
        return self._read({"now": report["now"], **report["dead_man"]})

    async def aclose(self) -> None:
        await self._timers.aclose()
        await super().aclose()

    async def _send(self, seconds: float) -> dict[str, Any]:
        try:
            answer = await self._timers.post("/_paper/dead-man", json={"seconds": seconds})
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise BrokerUnavailable(f"{self.name}: the exchange did not answer: {error!r}", account=self.name) from None
        return dict(answer.json())

    def _read(self, told: dict[str, Any]) -> SafetyNet:
        due = told["armed"].get("")
        until = None if due is None else datetime.now(UTC) + timedelta(seconds=(due - told["now"]) / self._scale)
        return SafetyNet(until, verified=True, detail="positions stay as they are")


def from_settings(name: str, account: AccountSettings) -> TimerBroker:
    """At an exchange whose clock runs as ours."""
    return TimerBroker(name, account)
