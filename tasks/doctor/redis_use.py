"""Check what Redis lets us do, by doing it, and say what can not be promised where it refuses, as hosted ones do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from breaker.deadline_client import AsyncDeadlineClient
from breaker.errors import BreakerError
from breaker.gate import Gate
from breaker.gate.decision import Reason
from breaker.gate.report import read_reports, reports_request
from breaker.redis_run import COMPARED_KEY, run_of
from breaker.requests import Command, Request
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, measure_within
from tasks.doctor.sentinels import measure_sentinels

GATE_PATIENCE = 3.0
"""Seconds that a gate gets to hear from Redis."""
_NOT_HEARD = (Reason.NOT_CONNECTED, Reason.BEING_READ, Reason.STALE)
_UNSEEN = {
    "CONFIG": "CONFIG: whether it appends to disk, evicts, or waits for replicas can't be seen: see to appendonly yes, "
    "appendfsync always, noeviction and min-replicas-to-write there",
    "INFO": "INFO: nobody can tell a restored or failed-over Redis by its run id, so that a silent dead-man's switch "
    "from before it kills; replicas and persistence can't be seen either",
}
_UNCONFIRMED = '{command}: no trip is ever confirmed, as trip_durability = "{kind}" needs it; configure another'


async def measure_use(settings: Settings) -> list[Measurement]:
    """Whether it is found, what it lets us do, and whether a gate hears from it."""
    sentinels, compared, *others = await asyncio.gather(
        measure_sentinels(settings), measure_compared(settings), measure_commands(settings), measure_gate(settings)
    )
    return [*sentinels, *others, *compared]


async def measure_commands(settings: Settings) -> Measurement:
    """What is refused of that which not every server allows."""
    wanted = _wanted(settings)
    probe = Probe("redis/commands", "none refused", f"{', '.join(wanted)} asked of the configured Redis")

    async def measure() -> Measurement:
        client = AsyncDeadlineClient(async_redis_client(settings), settings.redis_timeout)
        try:
            request = Request("say what it allows", (("PING",),), trailing_commands=tuple(wanted.values()))
            return judge_commands(probe, settings, tuple(wanted), (await client.execute(request))[1:])
        finally:
            await client.close()

    return await measure_within(probe, settings.redis_timeout + 1, measure())


def _wanted(settings: Settings) -> dict[str, Command]:
    wanted: dict[str, Command] = {"CONFIG": ("CONFIG", "GET", "appendonly"), "INFO": ("INFO", "server")}
    match settings.trip_durability:
        case "aof":
            wanted["WAITAOF"] = ("WAITAOF", 0, 0, 1)
        case "replicas":
            wanted["WAIT"] = ("WAIT", 0, 1)
    return wanted


def judge_commands(probe: Probe, settings: Settings, asked: Sequence[str], replies: Sequence[Any]) -> Measurement:
    """`replies` are those to `asked`; an error is a refusal."""
    refused = [name for name, reply in zip(asked, replies, strict=True) if isinstance(reply, Exception)]
    if not refused:
        return probe.measured("none refused")
    without = [
        _UNSEEN.get(name) or _UNCONFIRMED.format(command=name, kind=settings.trip_durability) for name in refused
    ]
    needed = any(name not in _UNSEEN for name in refused)
    problem = f"It refuses {'; '.join(without)}."
    return probe.measured(f"{', '.join(refused)} refused", Colour.RED if needed else Colour.YELLOW, problem)


async def measure_gate(settings: Settings) -> Measurement:
    """Whether an engine's gate would hear from this Redis as this user; what it hears is not judged."""
    probe = Probe("redis/gate", "a gate hears the state", "a gate of doctor's own, opened and closed again")
    return await measure_within(probe, GATE_PATIENCE + 2, asyncio.to_thread(_listen, settings, probe))


def _listen(settings: Settings, probe: Probe) -> Measurement:
    deadline = time.monotonic() + GATE_PATIENCE
    with Gate(settings.redis_address.get_secret_value(), report=False) as gate:
        while (status := gate.status()).reason in _NOT_HEARD and time.monotonic() < deadline:
            time.sleep(0.02)
    if status.reason in _NOT_HEARD:
        return probe.failed(f"No gate would open: {status.sentence}")
    return probe.measured(f"hears {status.reason.value}")


async def measure_compared(settings: Settings) -> list[Measurement]:
    """Whether the gates that ask for it find a Redis that was compared with the ledger; none where no gate asks."""
    probe = Probe("redis/compared", "with the ledger", "what gates report, and the run of Redis that was compared last")
    client = AsyncDeadlineClient(async_redis_client(settings), settings.redis_timeout)
    try:
        noted = Request("read which run was compared", (("GET", COMPARED_KEY),), trailing_commands=(("INFO",),))
        gates = read_reports(await client.execute(reports_request()))
        compared, info = await client.execute(noted)
    except BreakerError:  # that Redis is away, or refuses this, is said by another check
        return []
    finally:
        await client.close()
    asking = sum(gate.report.compared and not gate.lost for gate in gates.gates)
    return [judge_compared(probe, asking, compared, run_of(info))] if asking else []


def judge_compared(probe: Probe, asking: int, compared: bytes | None, run: str) -> Measurement:
    """`asking`: gates that stay closed on a run of Redis other than the one that was `compared`."""
    closed = "1 gate stays" if asking == 1 else f"{asking} gates stay"
    if not run:
        problem = (
            f"{closed} closed, as INFO doesn't tell which run of Redis this is: allow it, or don't ask for compared."
        )
        return probe.measured("not known", Colour.RED, problem)
    if compared != run.encode():
        problem = (
            f"{closed} closed until a service has compared this Redis with the ledger, which takes a second: start "
            "`breaker services` or `python -m services.serve`; if one runs, its log says what keeps it from that."
        )
        return probe.measured("not compared", Colour.RED, problem)
    return probe.measured("compared")
