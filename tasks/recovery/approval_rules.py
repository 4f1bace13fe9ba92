"""Decide whether a person's answer may be acted on. Pure; the same rules for the orchestrator's form, CLI and console.

Source: runbook, *Reset via Web Console* and *Recovery Checklist*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.checks.measurement import Colour, Measurement

MIN_TEXT = 20
"""Characters of a reason, and of a root cause."""
MAX_CAUSE = 4_000
MAX_REASON = 1_000
CATEGORIES = ("market", "strategy", "data", "venue", "infrastructure", "operator", "other")


@dataclass(frozen=True, slots=True)
class RootCause:
    author: str
    category: str
    root_cause: str
    corrective_action: str

    @property
    def by(self) -> str:
        return self.author


@dataclass(frozen=True, slots=True)
class Approval:
    approver: str
    reason: str
    acknowledge: bool
    override_reason: str = ""
    """Given when conditions are red and trading is to resume all the same."""

    @property
    def by(self) -> str:
        return self.approver


@dataclass(frozen=True, slots=True)
class ApprovalRules:
    """Who may do what, and who has had a part in the incident already."""

    people: Mapping[str, Sequence[str]]
    two_person: bool
    tripped_by: str
    author: str = ""

    def may(self, name: str, permission: str) -> bool:
        return permission in self.people.get(name, ())


def refuse_root_cause(answer: RootCause, rules: ApprovalRules) -> str | None:
    """Why the root cause can't be accepted, as a sentence; None if it can."""
    if not rules.may(answer.author, "APPROVE_RECOVERY"):
        return _lacks(answer.author, "APPROVE_RECOVERY")
    if answer.category not in CATEGORIES:
        return f"'{answer.category}' is no category; one of {', '.join(CATEGORIES)}"
    for name, text in (("root cause", answer.root_cause), ("corrective action", answer.corrective_action)):
        if problem := _length(name, text, MAX_CAUSE):
            return problem
    return None


def refuse_approval(answer: Approval, rules: ApprovalRules, measurements: Sequence[Measurement]) -> str | None:
    """Why the reset is refused, as a sentence; None if it may go on. `measurements` are from just before."""
    if not rules.may(answer.approver, "RESET_CIRCUIT"):
        return _lacks(answer.approver, "RESET_CIRCUIT")
    if rules.two_person and answer.approver in (rules.tripped_by, rules.author):
        part = "tripped the breaker" if answer.approver == rules.tripped_by else "wrote the root cause"
        return f"{answer.approver} {part}: somebody else must approve the reset"
    if problem := _length("reason", answer.reason, MAX_REASON):
        return problem
    if len(answer.override_reason) > MAX_REASON:
        return f"the override's reason has {len(answer.override_reason)} characters; at most {MAX_REASON} are kept"
    if not answer.acknowledge:
        return "not acknowledged: confirm that the cause is understood and conditions are normal"
    red = [measurement for measurement in measurements if measurement.colour is Colour.RED]
    if red and len(answer.override_reason.strip()) < MIN_TEXT:
        names = "; ".join(f"{m.name} is {m.value}, limit {m.limit}" for m in red)
        return f"red: {names}. Wait until it is normal, or override it with a reason of at least {MIN_TEXT} characters"
    if red and not rules.may(answer.approver, "APPROVE_RECOVERY"):
        return f"{_lacks(answer.approver, 'APPROVE_RECOVERY')}, which overriding a red condition needs"
    return None


def _length(name: str, text: str, most: int) -> str | None:
    length = len(text.strip())
    if length < MIN_TEXT:
        return f"the {name} has {length} characters; at least {MIN_TEXT} are needed"
    return f"the {name} has {length} characters; at most {most} are kept" if length > most else None


def _lacks(name: str, permission: str) -> str:
    who = name or "nobody named"
    return (
        f"{who} has no {permission} permission; an admin grants it under [recovery.people] in the configuration, or to "
        "a user of the console by a role"
    )
