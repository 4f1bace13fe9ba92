"""Keep where a recovery stands, for everybody who looks: the orchestrator's UI, the command line, the console.

It is a picture, not the truth: what happened is in the ledger, and what is still to do is in the flow run. Key
`circuit_breaker:recovery`, with `:{scope}` appended for a scope other than global.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from redis.asyncio import Redis

from breaker.keys import Keys, of_scope
from configuration.printed_commands import with_pastable
from tasks.recovery.checklist import CHECKLIST, ITEMS

CLAIM_SECONDS = 30 * 86_400


class Tick(StrEnum):
    """How far an item of the checklist is. Marks stand beside the words, so that colour is never the only signal."""

    PENDING = "pending"
    WORKING = "working"
    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"
    OVERRIDDEN = "overridden"

    @property
    def mark(self) -> str:
        return {"pending": "☐", "working": "…", "green": "☑", "yellow": "☑", "red": "✗", "overridden": "☑"}[self]

    @property
    def done(self) -> bool:
        return self in (Tick.GREEN, Tick.YELLOW, Tick.OVERRIDDEN)


@dataclass(frozen=True, slots=True)
class ItemState:
    tick: Tick = Tick.PENDING
    at: str = ""
    by: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class RecoveryState:
    """`waiting_for` names the form that a person must answer; times are ISO 8601, UTC."""

    incident_id: str
    scope: str
    flow_run_id: str
    round: int = 1
    phase: str = "starting"
    waiting_for: str = ""
    waiting_since: str = ""
    question: str = ""
    """The name of that asking of the form: an answer to an earlier one is none to this."""
    heartbeat_at: str = ""
    reminded_at: str = ""
    problem: str = ""
    """Why the last answer was refused, or why the checklist was reopened."""
    author: str = ""
    report_path: str = ""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    items: Mapping[str, ItemState] = field(default_factory=dict)
    done: bool = False
    cancelled_at: str = ""
    """When it was seen that its run had been cancelled in Prefect; somebody begins it again, or ends it."""

    @property
    def is_cancelled(self) -> bool:
        """Cancelled in Prefect, and neither begun again nor ended."""
        return bool(self.cancelled_at) and not self.done

    def item(self, key: str) -> ItemState:
        return self.items.get(key, ItemState())

    def with_item(self, key: str, item: ItemState) -> RecoveryState:
        if key not in ITEMS:
            raise KeyError(f"the checklist has no item {key!r}")
        return replace(self, items={**self.items, key: item})

    @property
    def share_done(self) -> float:
        """From 0 to 1."""
        return sum(self.item(key).tick.done for key in ITEMS) / len(ITEMS)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, raw: str | bytes) -> RecoveryState:
        """Raises ValueError, TypeError, KeyError or AttributeError for what is no picture. What a newer version has
        added is left out.
        """
        found: dict[str, Any] = json.loads(raw)
        items = {key: ItemState(**{**item, "tick": Tick(item["tick"])}) for key, item in found.pop("items").items()}
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in found.items() if name in known}, items=items)

    def as_text(self) -> str:
        """The same as `as_markdown`, with marks in place of boxes: a form would show those as boxes of its own."""
        return self.as_markdown().replace("- [x] ", "- ☑ ").replace("- [ ] ", "- ☐ ")

    def as_markdown(self) -> str:
        """The checklist itself, with ticks, times, who and evidence."""
        lines = [f"# Recovery of incident `{self.incident_id}`", "", f"**{self.phase}** · round {self.round}", ""]
        if self.waiting_for:
            lines += [f"Waiting since {self.waiting_since[:19]} UTC for a person: **{self.waiting_for}**", ""]
        if self.problem:
            lines += [f"> {with_pastable(self.problem)}", ""]
        for section in CHECKLIST:
            lines += [f"## {section.number}. {section.title}", ""]
            for item in section.items:
                state = self.item(item.key)
                done = "x" if state.tick.done else " "
                word = "" if state.tick in (Tick.PENDING, Tick.GREEN) else f" **{state.tick.value}**"
                who = f" — {state.at[:19]} UTC{f' by {state.by}' if state.by else ''}" if state.at else ""
                lines.append(f"- [{done}] {item.words}{word}{who}")
                if state.evidence:
                    lines.append(f"  - {with_pastable(state.evidence)}")
            lines.append("")
        return "\n".join(lines)


def cancelled_sentence(scope: str) -> str:
    """What somebody reads who would answer a recovery whose run is no more."""
    return (
        "Its run was cancelled in Prefect, so nothing takes an answer. Begin it again: "
        f"`breaker recover start{of_scope(scope)}`; or end it: `breaker recover end --reason WHY{of_scope(scope)}`"
    )


def now_iso() -> str:
    return datetime.now(UTC).isoformat()


def state_key(scope: str) -> str:
    return Keys.of(scope).key("recovery")


def claim_key(incident_id: str) -> str:
    """Holds the flow run that is the incident's recovery."""
    return f"circuit_breaker:recovery_claim:{incident_id}"


async def read_state(redis: Redis, scope: str) -> RecoveryState | None:
    """The picture of the latest recovery of this breaker; None when there is none, or it can't be read."""
    raw = await redis.get(state_key(scope))
    try:
        return RecoveryState.from_json(raw) if raw else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


async def write_state(redis: Redis, state: RecoveryState) -> None:
    await redis.set(state_key(state.scope), state.to_json())


async def claim(redis: Redis, incident_id: str, flow_run_id: str) -> str:
    """Make this flow run the incident's recovery unless another one is; returns whose it is."""
    key = claim_key(incident_id)
    await redis.set(key, flow_run_id, nx=True, ex=CLAIM_SECONDS)
    holder = await redis.get(key)
    return holder.decode() if isinstance(holder, bytes) else str(holder)


async def take_over_claim(redis: Redis, incident_id: str, flow_run_id: str) -> None:
    """For when the run that had the claim is known to have ended."""
    await redis.set(claim_key(incident_id), flow_run_id, ex=CLAIM_SECONDS)
