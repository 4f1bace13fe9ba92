"""Keep in Redis what people were asked and what became of their answers, so that each answer is consumed once.

The flow begins again at the top whenever somebody has answered, perhaps on a host that has none of the orchestrator's
results. What an answer led to is therefore not among those: it stands under one key for each form and round of a flow
run, and every step from asked to refused or accepted is one compare-and-set. A name that is lost with its key is never
made again, so that the answer to it is found no more and people are asked anew.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from redis.asyncio import Redis

from tasks.recovery.state import now_iso

KEPT_FOR = 400 * 86_400
"""Seconds; longer than a form stays open."""
ANSWER_VALID = 3_600.0
"""Seconds in which an answer has to be acted on: what it was given for does not hold for ever."""

_CHANGE = """
local held = redis.call('GET', KEYS[1]) or ''
if held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return ARGV[2]
"""


class NoAnswer(Exception):
    """A run went on without an answer that can be taken; says why, as people are told when they are asked again."""


@dataclass(frozen=True, slots=True)
class Question:
    """The newest asking of a form in a round, and what became of it. Times are ISO 8601, UTC."""

    form: str
    round: int
    attempt: int
    name: str
    incident_id: str
    epoch: int | None
    """Of the breaker's state that it was asked about; None if that has none."""
    asked_at: str
    problem: str = ""
    """Why the answer before was refused."""
    accepted: Mapping[str, Any] = field(default_factory=dict)
    """The answer that was accepted; of an approval, the one that the reset was made by. Empty while it is open."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """All that an accepted answer was to lead to is done: of a reset its epoch, and by whom."""
    reopened: str = ""
    """Why the round ended without trading resumed."""
    raw: str = field(default="", compare=False)
    """As Redis holds it, so that nothing but this very record is changed."""

    def to_json(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if name != "raw"})

    @classmethod
    def from_json(cls, raw: str) -> Question:
        """Raises ValueError, TypeError or AttributeError for what is no question. What a newer version has added is
        left out.
        """
        known = {each.name for each in fields(cls)}
        return cls(**{**{name: value for name, value in json.loads(raw).items() if name in known}, "raw": raw})


@dataclass(frozen=True, slots=True)
class Questions:
    """Those of one flow run."""

    redis: Redis
    incident_id: str
    flow_run_id: str

    def key(self, form: str, round_: int) -> str:
        return f"circuit_breaker:recovery_question:{self.flow_run_id}:{form}:{round_}"

    async def read(self, form: str, round_: int) -> Question | None:
        """None if it was not asked yet, or if what is there is no question."""
        return _read(_text(await self.redis.get(self.key(form, round_))))

    async def current(self, form: str, round_: int, epoch: int | None) -> Question:
        """The newest asking of it; the first, about the state of this epoch, where there is none."""
        raw = _text(await self.redis.get(self.key(form, round_)))
        return _read(raw) or await self._change(raw, self._asking(form, round_, 1, epoch))

    async def ask_again(self, question: Question, problem: str, epoch: int | None) -> Question:
        """Refuse the answer to `question` for ever; returns what is asked now.

        Where somebody else was first to decide about that answer, it is theirs that counts and is returned.
        """
        asking = self._asking(question.form, question.round, question.attempt + 1, epoch)
        return await self._change(question.raw, replace(asking, problem=problem))

    async def accept(
        self, question: Question, answer: Mapping[str, Any], result: Mapping[str, Any] | None = None
    ) -> Question:
        """Take this answer to `question`; returns what is on record now, which may be what somebody else decided."""
        return await self._change(question.raw, replace(question, accepted=answer, result=result or {}))

    async def reopen(self, round_: int, why: str) -> None:
        """Note that the round of this reset is over and another one begins."""
        question = await self.read("approval", round_)
        if question is not None and not question.reopened:
            await self._change(question.raw, replace(question, reopened=why))

    async def round_in_hand(self) -> int:
        """The first round that was not reopened."""
        round_ = 1
        while (question := await self.read("approval", round_)) is not None and question.reopened:
            round_ += 1
        return round_

    def _asking(self, form: str, round_: int, attempt: int, epoch: int | None) -> Question:
        name = f"{question_id(form, round_, attempt)}-{secrets.token_hex(4)}"
        return Question(form, round_, attempt, name, self.incident_id, epoch, now_iso())

    async def _change(self, held: str, new: Question) -> Question:
        key = self.key(new.form, new.round)
        found = _text(await self.redis.eval(_CHANGE, 1, key, held, new.to_json(), str(KEPT_FOR)))
        question = _read(found)
        return question or await self.current(new.form, new.round, new.epoch)


def question_id(form: str, round_: int, attempt: int) -> str:
    """What the name of one question begins with: what is asked again, because an answer was refused, has another."""
    return f"{form}-{round_}-{attempt}"


def _text(raw: bytes | str | None) -> str:
    return raw.decode(errors="surrogateescape") if isinstance(raw, bytes) else raw or ""


def _read(raw: str) -> Question | None:
    try:
        return Question.from_json(raw) if raw else None
    except (ValueError, TypeError, AttributeError):
        return None
