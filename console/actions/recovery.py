"""Read where a recovery stands, and give it the answers of people who have signed in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from breaker import BreakerError
from breaker.errors import BreakerUnavailable, InvalidInput
from configuration.settings import Settings
from console.actions.authorization import Authorization, Caller
from console.actions.trip_reset import TripReset
from console.auth.permissions import Permission
from tasks.recovery.answers import AnswerNotTaken, refusal_of, refusal_record, submit_answer
from tasks.recovery.approval_rules import Approval, ApprovalRules, RootCause, trippers_of
from tasks.recovery.attestation import attest, withdraw_attestation
from tasks.recovery.evidence_store import read_evidence
from tasks.recovery.state import RecoveryState, cancelled_sentence, read_state

T = TypeVar("T")

NEEDED = {"root-cause": Permission.APPROVE_RECOVERY, "approval": Permission.RESET_CIRCUIT}
"""The permission to answer each form."""


class NothingAsked(BreakerError):
    """No recovery waits for this answer, or not any more. Nothing changed."""


class AnswerRefused(BreakerError):
    """The answer breaks a rule of the recovery. On record; it waits on."""


class Recoveries:
    def __init__(self, settings: Settings, redis: Redis, authorization: Authorization, trip_reset: TripReset) -> None:
        self._settings = settings
        self._redis = redis
        self._authorization = authorization
        self._trip_reset = trip_reset
        # Judging and handing over import the orchestrator's client, and may wait for it. On threads of their own that
        # holds up neither the pages nor the threads on which sessions are looked up.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="recovery answer")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def read(self, scope: str) -> RecoveryState | None:
        """The latest recovery of this breaker. Raises BreakerUnavailable."""
        async with self._redis_in_time("read"):
            return await read_state(self._redis, scope)

    async def evidence(self, incident_id: str) -> str | None:
        """What was gathered for whoever writes the root cause, as Markdown. Raises BreakerUnavailable."""
        async with self._redis_in_time("read"):
            return await read_evidence(self._redis, incident_id)

    async def waiting(self, scope: str) -> RecoveryState:
        """The recovery that waits for a person. Raises NothingAsked, BreakerUnavailable."""
        state = await self.read(scope)
        if state is not None and state.is_cancelled:
            raise NothingAsked(f"The recovery takes no answer. {cancelled_sentence(scope)}. Nothing changed.")
        if state is None or state.waiting_for not in NEEDED:
            raise NothingAsked(f"No recovery of {scope} waits for a person; nothing changed.")
        return state

    async def answer(
        self, caller: Caller, scope: str, answer: RootCause | Approval, question: str | None = None
    ) -> RecoveryState:
        """Give the flow this answer, with the console's word for the caller's permissions; returns what had waited.

        `question` is the one that was looked at. Raises Denied, InvalidInput, NothingAsked, AnswerRefused,
        AnswerNotTaken and BreakerUnavailable; only after AnswerNotTaken may it have got there.
        """
        form = "root-cause" if isinstance(answer, RootCause) else "approval"
        await self._authorization.require(caller, NEEDED[form])
        _check_text(answer)
        state = await self.waiting(scope)
        if state.waiting_for != form or question not in (None, state.question):
            raise NothingAsked(
                "The recovery waits for something else by now: somebody has answered it, or it was asked anew. "
                "Nothing changed; look at it again."
            )
        permissions = sorted(caller.identity.permissions)
        status = await self._trip_reset.breaker(scope, caller.source).get_status()
        rules = ApprovalRules(
            {caller.user: permissions}, self._settings.recovery.two_person, trippers_of(status), state.author, scope
        )
        refusal = await self._on_own_thread(lambda: refusal_of(answer, rules, self._settings, state))
        if refusal is not None:
            record = refusal_record(state, caller.user, refusal, caller.source, caller.address)
            await self._authorization.keep(record)
            raise AnswerRefused(f"Refused: {refusal}. Nothing changed, the recovery still waits.")
        async with self._redis_in_time("written"):
            await attest(self._redis, state.flow_run_id, state.question, answer, permissions)
        try:
            await self._on_own_thread(lambda: submit_answer(state, answer))
        except AnswerNotTaken as error:
            if not error.may_have_happened:
                async with self._redis_in_time("written"):
                    await withdraw_attestation(self._redis, state.flow_run_id, state.question, answer)
            raise
        details = {"form": form, "question": state.question}
        await self._authorization.record(
            caller, "RECOVERY_ANSWERED", details, scope=scope, incident_id=state.incident_id
        )
        return state

    async def _on_own_thread(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: asyncio.run(work()))

    @asynccontextmanager
    async def _redis_in_time(self, done: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._settings.redis_timeout):
                yield
        except (RedisError, OSError) as error:
            why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            text = f"The recovery can't be {done} in Redis ({why})."
            raise BreakerUnavailable(text, may_have_happened=False) from None


def _check_text(answer: RootCause | Approval) -> None:
    texts = (
        (answer.root_cause, answer.corrective_action)
        if isinstance(answer, RootCause)
        else (answer.reason, answer.override_reason)
    )
    for character in "".join(texts):
        if not (character.isprintable() or character in "\n\t\u00a0\u202f"):
            raise InvalidInput(f"The character {character!a} can't be kept; nothing changed.")
