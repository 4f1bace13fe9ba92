"""The console's word for somebody who answers: what they are allowed by it, kept where the flow finds it.

The orchestrator knows no people, so what is typed there as a name proves nothing about permissions. The console has
signed its user in. What it says is kept in Redis, which whoever reaches the orchestrator alone can't write; whoever can
write there could write the breaker's state too. It holds for one answer, word by word, to one question of one run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict

from redis.asyncio import Redis

from tasks.recovery.approval_rules import Approval, RootCause

KEPT_FOR = 7 * 86_400
"""Seconds in which the flow has to read the answer; longer than a worker is ever away."""


def question_of(form: str, round_: int, attempt: int) -> str:
    """The name of one question: what is asked again, because the answer was refused, has another one."""
    return f"{form}-{round_}-{attempt}"


def voucher_key(flow_run_id: str, question: str, answer: RootCause | Approval) -> str:
    words = json.dumps([question, asdict(answer)], sort_keys=True)
    return f"circuit_breaker:recovery_voucher:{flow_run_id}:{hashlib.sha256(words.encode()).hexdigest()}"


async def vouch(
    redis: Redis, flow_run_id: str, question: str, answer: RootCause | Approval, permissions: Collection[str]
) -> None:
    """Say that whoever gives this answer has signed in and has these permissions."""
    await redis.set(voucher_key(flow_run_id, question, answer), json.dumps(sorted(permissions)), ex=KEPT_FOR)


async def withdraw(redis: Redis, flow_run_id: str, question: str, answer: RootCause | Approval) -> None:
    """For when the answer did not get to the flow."""
    await redis.delete(voucher_key(flow_run_id, question, answer))


async def vouched_for(redis: Redis, flow_run_id: str, question: str, answer: RootCause | Approval) -> tuple[str, ...]:
    """The permissions that the console vouches for; none if it doesn't know of this answer."""
    found = await redis.get(voucher_key(flow_run_id, question, answer))
    return tuple(json.loads(found)) if found else ()
