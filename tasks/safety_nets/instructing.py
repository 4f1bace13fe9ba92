"""Have a person's instruction about an account's timer carried out: by whoever keeps it, or else from here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from breaker.deadline_client import AsyncDeadlineClient
from breaker.errors import BreakerUnavailable
from breaker.requests import Request, raise_if_error
from breaker.status_reader import AsyncStatusReader
from brokers.registry import open_account
from configuration.redis_clients import async_redis_client
from configuration.settings import Settings
from tasks.monitor.leases import Holder
from tasks.safety_nets.configured import wanted_net
from tasks.safety_nets.decision import Standing
from tasks.safety_nets.holding import Holding, lease_key
from tasks.safety_nets.net import Net
from tasks.safety_nets.on_record import record_change, record_instructions
from tasks.safety_nets.reading import read_net_records, read_told
from tasks.safety_nets.records import INSTRUCTIONS, Instruction, NetRecord, keep_request

PATIENCE = 5.0
"""Seconds, beside what the venue's answers may take, in which whoever keeps a timer is to have done it."""
NOBODY = "nobody keeps it, and it would run out: run `breaker services` or `python -m services.serve`, which arm it"


@dataclass(frozen=True, slots=True)
class CarriedOut:
    """What came of it for one account: the last record, and in words what is not as asked; empty where all is."""

    account: str
    record: NetRecord | None
    problem: str = ""


async def instruct(
    settings: Settings, accounts: Sequence[str], *, armed: bool, by: str, reason: str, source: str
) -> list[CarriedOut]:
    """On record first, then kept in Redis, then carried out. The accounts have to be configured with `safety_net`.

    Raises:
        BreakerUnavailable, RedisRefused: Redis did not take it; what keeps the timers does not know of it.
        LedgerError: it could not be put on record, so nothing was done.
    """
    redis = AsyncDeadlineClient(async_redis_client(settings), settings.redis_timeout)
    statuses = AsyncStatusReader(async_redis_client(settings), timeout=settings.redis_timeout)
    try:
        (clock,) = await redis.execute(Request("read its clock", (("TIME",),)))
        raise_if_error(clock)
        now = int(clock[0]) + int(clock[1]) / 1_000_000
        given = {name: Instruction(armed=armed, by=by, reason=reason, at=now) for name in accounts}
        await asyncio.to_thread(record_instructions, settings, given, source)
        for name, instruction in given.items():
            kept = ("HSET", INSTRUCTIONS, name, instruction.as_json())
            (reply,) = await redis.execute(Request(f"keep what is wanted of the safety net of {name}", (kept,)))
            raise_if_error(reply)
        return await asyncio.gather(
            *(_carry_out(settings, redis, statuses, name, instruction) for name, instruction in given.items())
        )
    finally:
        await statuses.close()
        await redis.close()


async def _carry_out(
    settings: Settings, redis: AsyncDeadlineClient, statuses: AsyncStatusReader, name: str, instruction: Instruction
) -> CarriedOut:
    (is_held,) = await redis.execute(Request("read who keeps the safety net", (("EXISTS", lease_key(name)),)))
    if is_held == 1:
        return await _wait_for_keeper(settings, redis, name, instruction)
    if instruction.armed:
        return CarriedOut(name, None, NOBODY)
    return await _disarm_from_here(settings, redis, statuses, name)


async def _wait_for_keeper(
    settings: Settings, redis: AsyncDeadlineClient, name: str, instruction: Instruction
) -> CarriedOut:
    wanted = Standing.ARMED if instruction.armed else Standing.OFF
    until = time.monotonic() + 2 * settings.accounts[name].request_timeout + PATIENCE
    record: NetRecord | None = None
    while time.monotonic() < until:
        record = (await read_net_records(redis))[1].get(name)
        if record is not None and (record.instruction, record.standing) == (instruction.id, wanted):
            return CarriedOut(name, record)
        await asyncio.sleep(0.2)
    if record is None or record.instruction != instruction.id:
        return CarriedOut(name, record, "whoever keeps it has not heard of it yet; it is done when it has")
    because = "; ".join(filter(None, (record.why, record.problem))) or "no reason was given"
    return CarriedOut(name, record, f"it is {record.standing}: {because}")


async def _disarm_from_here(
    settings: Settings, redis: AsyncDeadlineClient, statuses: AsyncStatusReader, name: str
) -> CarriedOut:
    """As nobody keeps it: a timer that a dead process has left would fire."""
    account, holder = settings.accounts[name], Holder()
    holding = Holding(redis, holder, [name])
    broker = open_account(settings, name)
    try:
        wanted = wanted_net(name, account, broker)
        if wanted is None or wanted.unfit:
            return CarriedOut(name, None, wanted.unfit if wanted else "safety_net is not configured")
        if name not in await holding.hold():
            return CarriedOut(name, None, "another process has begun to keep it, and disarms it")
        told = await read_told(redis, statuses, [name])
        net = Net(name, broker, wanted.terms, within=account.request_timeout, host=str(holder))
        known = (await read_net_records(redis))[1].get(name)
        if known is not None:
            net.take_over(known, told[name])
        changes = await net.step(told[name])
        record = net.current(told[name])
        for changed in changes:
            await asyncio.to_thread(record_change, settings, changed)
        await redis.execute(keep_request(record, holder))
        await holding.leave()
        await holding.release()
        done = record.standing is Standing.OFF
        return CarriedOut(name, record, "" if done else record.problem or "it may run still")
    except BreakerUnavailable as error:
        return CarriedOut(name, None, str(error))
    finally:
        await broker.aclose()
