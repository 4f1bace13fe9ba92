"""Decide whether a person's answer may be acted on, and whether a reset may happen. Pure; the same for every way in.

Source: runbook, *Reset via Web Console* and *Recovery Checklist*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from breaker.keys import GLOBAL, of_scope
from breaker.state import Status
from tasks.checks.measurement import DRAWDOWN, REBASE, Colour, Measurement

MIN_TEXT = 20
"""Characters of a reason, and of a root cause."""
MAX_CAUSE = 4_000
MAX_REASON = 1_000
NOT_ACKNOWLEDGED = "not acknowledged: confirm that the cause is understood and conditions are normal"
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
    rebase_equity: bool = False
    """Begin the high-water mark anew with the reset, since otherwise a drawdown that has ended trips again at once."""

    @property
    def by(self) -> str:
        return self.approver


@dataclass(frozen=True, slots=True)
class ApprovalRules:
    """Who may do what, and who has had a part in the incident already."""

    people: Mapping[str, Sequence[str]]
    two_person: bool
    tripped_by: Sequence[str]
    """Every name of whoever tripped: the one that was given, and the login behind it."""
    author: str = ""
    scope: str = GLOBAL
    """Of the breaker, for the commands that a refusal names."""

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


class Rule(StrEnum):
    """What a reset is refused by."""

    PERMISSION = "permission"
    SECOND_PERSON = "second person"
    REQUEST = "request"
    CONDITIONS = "conditions"


@dataclass(frozen=True, slots=True)
class Refusal:
    rule: Rule
    sentence: str
    permission: str = ""
    """The one that is missing."""


def refusals_of_reset(answer: Approval, rules: ApprovalRules, measurements: Sequence[Measurement]) -> list[Refusal]:
    """Everything that this reset is refused for; empty if it may happen.

    `measurements` are from just before. Whoever may not reset at all is told that alone.
    """
    if not rules.may(answer.approver, "RESET_CIRCUIT"):
        return [Refusal(Rule.PERMISSION, _lacks(answer.approver, "RESET_CIRCUIT"), "RESET_CIRCUIT")]
    broken = [
        (Rule.SECOND_PERSON, _lacks_second_person(answer, rules)),
        (Rule.REQUEST, _length("reason", answer.reason, MAX_REASON)),
        (Rule.REQUEST, _too_long_override(answer)),
        (Rule.REQUEST, None if answer.acknowledge else NOT_ACKNOWLEDGED),
        (Rule.CONDITIONS, _red(answer, red_of(measurements), rules.scope)),
    ]
    found = [Refusal(rule, sentence) for rule, sentence in broken if sentence]
    if red_of(measurements) and answer.override_reason and not rules.may(answer.approver, "APPROVE_RECOVERY"):
        lacks = f"{_lacks(answer.approver, 'APPROVE_RECOVERY')}, which overriding a red condition needs"
        found.append(Refusal(Rule.PERMISSION, lacks, "APPROVE_RECOVERY"))
    return found


def in_words(refusals: Sequence[Refusal]) -> str:
    """All of them on one line; empty for none."""
    return "; ".join(refusal.sentence for refusal in refusals)


def red_of(measurements: Sequence[Measurement]) -> list[Measurement]:
    return [measurement for measurement in measurements if measurement.colour is Colour.RED]


def trippers_of(status: Status) -> tuple[str, ...]:
    """Whoever tripped this breaker, by every name that its state has for them."""
    names = (status.tripped_by, status.trip_details.get("login"))
    return tuple(dict.fromkeys(str(name) for name in names if name))


def _lacks_second_person(answer: Approval, rules: ApprovalRules) -> str | None:
    if not rules.two_person or answer.approver not in (*rules.tripped_by, rules.author):
        return None
    part = "tripped the breaker" if answer.approver in rules.tripped_by else "wrote the root cause"
    return f"{answer.approver} {part}: somebody else must approve the reset"


def _too_long_override(answer: Approval) -> str | None:
    length = len(answer.override_reason)
    return (
        f"the override's reason has {length} characters; at most {MAX_REASON} are kept" if length > MAX_REASON else None
    )


def _red(answer: Approval, red: Sequence[Measurement], scope: str) -> str | None:
    if not red or len(answer.override_reason.strip()) >= MIN_TEXT:
        return None
    names = "; ".join(
        f"{m.name} is {m.value}, limit {m.limit}{f' ({_one(m.problem)})' if m.problem else ''}" for m in red
    )
    wait = f"red: {names}. Wait until it is normal, or override it with a reason of at least {MIN_TEXT} characters"
    if not any(m.name == DRAWDOWN and REBASE in m.problem for m in red):
        return wait
    # Each alone is of no use: overridden it trips again at once, and re-based it is red until the reset is made.
    reset = f"`breaker reset --acknowledge --reason WHY --override WHY --rebase-equity{of_scope(scope)}`"
    return (
        f"{wait} and re-base: {reset}, or `breaker recover answer` with the same options; in the console Override and "
        "Re-base, by API override_reason and rebase_equity"
    )


def _one(problem: str) -> str:
    return problem.rstrip(". ")


def _length(name: str, text: str, most: int) -> str | None:
    length = len(text.strip())
    if length < MIN_TEXT:
        return f"the {name} has {length} characters; at least {MIN_TEXT} are needed"
    return f"the {name} has {length} characters; at most {most} are kept" if length > most else None


def _lacks(name: str, permission: str) -> str:
    who = name or "nobody named"
    return (
        f"{who} has no {permission} permission; an admin grants it under [recovery.people] in the configuration, or to "
        "a user of the console by a role (`breaker user role NAME ROLE`)"
    )
