"""Read from Redis what each account's timer goes by: breakers, kill switches at work, what people want."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from breaker.deadline_client import AsyncDeadlineClient
from breaker.errors import BreakerUnavailable
from breaker.keys import GLOBAL
from breaker.requests import Command, Request, raise_if_error
from breaker.state import State, Status
from breaker.status_reader import AsyncStatusReader
from breaker.trip_reasons import TripReason
from tasks.kill.close_names import KEY as CLOSES
from tasks.safety_nets.net import Told
from tasks.safety_nets.records import INSTRUCTIONS, KEY, NetRecord, pairs, read_instructions, read_records


def scopes_of(account: str) -> tuple[str, str]:
    """The breakers that cover the whole account. A strategy's or a symbol's is no reason to cancel all of it."""
    return GLOBAL, f"account:{account}"


async def read_told(
    client: AsyncDeadlineClient,
    statuses: AsyncStatusReader,
    accounts: Sequence[str],
    before: Mapping[str, Told] | None = None,
) -> dict[str, Told]:
    """What holds for each account now. Raises BreakerUnavailable, RedisRefused.

    `before` is what was read last: a dead man's trip that was seen then holds until a breaker is seen without it.
    """
    at = time.monotonic()
    commands: tuple[Command, ...] = (("TIME",), ("HGETALL", INSTRUCTIONS), *(("EXISTS", CLOSES + a) for a in accounts))
    replies = await client.execute(Request("read what the safety nets go by", commands))
    for reply in replies:
        raise_if_error(reply)
    (seconds, micros), instructions, *at_work = replies
    found = await statuses.read(dict.fromkeys(scope for account in accounts for scope in scopes_of(account)))
    known = read_instructions(pairs(instructions))
    return {
        account: told_of(
            {scope: found[scope] for scope in scopes_of(account)},
            Told(
                at=at,
                redis_time=int(seconds) + int(micros) / 1_000_000,
                instruction=known.get(account),
                kill_at_work=bool(is_at_work),
            ),
            (before or {}).get(account),
        )
        for account, is_at_work in zip(accounts, at_work, strict=True)
    }


def told_of(statuses: Mapping[str, Status], told: Told, before: Told | None = None) -> Told:
    """With what the breakers of the account say. Pure. Raises BreakerUnavailable where one could not be read.

    One whose state can't be told says what it said `before`: a failover may have lost a trip that the ledger has still.
    """
    for status in statuses.values():
        if status.as_of is None:
            raise BreakerUnavailable(status.problem or "Redis did not answer.", may_have_happened=False)
    tripped = {scope: status for scope, status in statuses.items() if status.state is State.TRIPPED}
    unknown = {scope for scope, status in statuses.items() if status.state is State.UNKNOWN}
    resets = [status.reset_at.timestamp() for status in statuses.values() if status.reset_at is not None]
    dead = {scope for scope, status in tripped.items() if status.trip_reason == TripReason.DEAD_MAN}
    return replace(
        told,
        dead=frozenset(dead | (unknown & (before.dead if before is not None else frozenset()))),
        reset_at=None if tripped or not resets else max(resets),
    )


async def read_net_records(client: AsyncDeadlineClient) -> tuple[float, Mapping[str, NetRecord]]:
    """Redis's time, and the record of each account. Raises BreakerUnavailable, RedisRefused."""
    replies = await client.execute(Request("read where the safety nets stand", (("TIME",), ("HGETALL", KEY))))
    for reply in replies:
        raise_if_error(reply)
    (seconds, micros), records = replies
    return int(seconds) + int(micros) / 1_000_000, read_records(pairs(records))
