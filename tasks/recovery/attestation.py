"""Attest, by the console, what somebody who answers is permitted to do, where the flow finds it.

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


def attestation_key(flow_run_id: str, question: str, answer: RootCause | Approval) -> str:
    words = json.dumps([question, asdict(answer)], sort_keys=True)
    return f"circuit_breaker:recovery_voucher:{flow_run_id}:{hashlib.sha256(words.encode()).hexdigest()}"


async def attest(
    redis: Redis, flow_run_id: str, question: str, answer: RootCause | Approval, permissions: Collection[str]
) -> None:
    """Say that whoever gives this answer has signed in and has these permissions."""
    await redis.set(attestation_key(flow_run_id, question, answer), json.dumps(sorted(permissions)), ex=KEPT_FOR)


async def withdraw_attestation(redis: Redis, flow_run_id: str, question: str, answer: RootCause | Approval) -> None:
    """For when the answer did not get to the flow."""
    await redis.delete(attestation_key(flow_run_id, question, answer))


async def attested_permissions(
    redis: Redis, flow_run_id: str, question: str, answer: RootCause | Approval
) -> tuple[str, ...]:
    """The permissions that the console vouches for; none if it doesn't know of this answer."""
    found = await redis.get(attestation_key(flow_run_id, question, answer))
    return tuple(json.loads(found)) if found else ()
