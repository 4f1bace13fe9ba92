"""Who may let trading resume, and on what: each refusal has its own sentence."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tasks.checks.measurement import Colour, Measurement, worst
from tasks.recovery.approval_rules import (
    Approval,
    ApprovalRules,
    RootCause,
    Rule,
    in_words,
    refusals_of_reset,
    refuse_root_cause,
)

RULES = ApprovalRules(
    people={
        "ada": ["APPROVE_RECOVERY", "RESET_CIRCUIT"],
        "bob": ["APPROVE_RECOVERY"],
        "cyd": ["RESET_CIRCUIT"],
        "dee": ["APPROVE_RECOVERY", "RESET_CIRCUIT"],
    },
    two_person=True,
    tripped_by=("dee", "dee-laptop"),
    author="bob",
)
GOOD = Approval("ada", "cause fixed, venue confirmed, book checked", acknowledge=True)
CAUSE = RootCause("bob", "data", "stale quotes after the feed's failover", "feed pinned, alarm added to staleness")


def refuse_approval(answer: Approval, rules: ApprovalRules, measurements: list[Measurement]) -> str:
    return in_words(refusals_of_reset(answer, rules, measurements))


def measured(colour: Colour, name: str = "drawdown") -> Measurement:
    return Measurement(name, colour, "6.1 %", "5 %", "equity", datetime.now(UTC), "over its limit")


def test_promise_9_a_reset_that_keeps_every_rule_is_not_refused() -> None:
    assert refusals_of_reset(GOOD, RULES, [measured(Colour.GREEN), measured(Colour.YELLOW)]) == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (replace(GOOD, approver="eve"), "eve has no RESET_CIRCUIT permission"),
        (replace(GOOD, approver="bob"), "bob has no RESET_CIRCUIT permission"),
        (replace(GOOD, approver=""), "nobody named has no RESET_CIRCUIT permission"),
        (replace(GOOD, approver="dee"), "dee tripped the breaker"),
        (replace(GOOD, reason="all fine"), "the reason has 8 characters"),
        (replace(GOOD, reason=" " * 40), "the reason has 0 characters"),
        (replace(GOOD, acknowledge=False), "not acknowledged"),
    ],
)
def test_promise_9_each_broken_rule_has_its_own_sentence(answer: Approval, says: str) -> None:
    assert says in refuse_approval(answer, RULES, [])


def test_promise_9_the_author_of_the_root_cause_cannot_approve_alone() -> None:
    rules = replace(RULES, author="ada")
    assert "ada wrote the root cause" in refuse_approval(GOOD, rules, [])
    assert refusals_of_reset(GOOD, replace(rules, two_person=False), []) == []


def test_promise_9_a_name_that_was_typed_hides_nobody_who_tripped() -> None:
    rules = replace(RULES, people={"dee-laptop": RULES.people["dee"]})
    assert "dee-laptop tripped the breaker" in refuse_approval(replace(GOOD, approver="dee-laptop"), rules, [])


def test_promise_9_everything_that_is_wrong_is_said_at_once_but_to_somebody_without_the_permission() -> None:
    wrong = replace(GOOD, approver="dee", reason="fine", acknowledge=False)
    rules_broken = [refusal.rule for refusal in refusals_of_reset(wrong, RULES, [measured(Colour.RED)])]
    assert rules_broken == [Rule.SECOND_PERSON, Rule.REQUEST, Rule.REQUEST, Rule.CONDITIONS]
    (only,) = refusals_of_reset(replace(wrong, approver="eve"), RULES, [measured(Colour.RED)])
    assert only.rule is Rule.PERMISSION


def test_promise_9_red_needs_an_override_with_a_reason_and_a_permission() -> None:
    red = [measured(Colour.RED)]
    assert "drawdown is 6.1 %, limit 5 % (over its limit)" in refuse_approval(GOOD, RULES, red)
    assert "drawdown is" in refuse_approval(replace(GOOD, override_reason="too short"), RULES, red)
    assert refusals_of_reset(replace(GOOD, override_reason="x" * 20), RULES, red) == []
    by_cyd = replace(GOOD, approver="cyd", override_reason="x" * 20)
    assert "which overriding a red condition needs" in refuse_approval(by_cyd, RULES, red)


def test_promise_9_a_red_drawdown_names_what_works_and_only_where_it_does() -> None:
    fallen = replace(measured(Colour.RED), problem="Every measurement that low trips again: re-base in the reset.")
    rules = replace(RULES, scope="account:ALPHA")
    for answer in (GOOD, replace(GOOD, rebase_equity=True)):
        said = refuse_approval(answer, rules, [fallen])
        options = "--acknowledge --reason WHY --override WHY --rebase-equity --scope account:ALPHA"
        assert f"`breaker reset {options}`, or `breaker recover answer` with the same options" in said
        assert "in the console Override and Re-base, by API override_reason and rebase_equity" in said
    lost = replace(fallen, problem="Equity is 0: nothing is left of the account.")
    assert "rebase" not in refuse_approval(GOOD, rules, [lost])
    assert "rebase" not in refuse_approval(GOOD, rules, [replace(fallen, name="redis")])


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (replace(CAUSE, author="eve"), "eve has no APPROVE_RECOVERY permission"),
        (replace(CAUSE, category="gremlins"), "'gremlins' is no category"),
        (replace(CAUSE, root_cause="dunno"), "the root cause has 5 characters"),
        (replace(CAUSE, corrective_action=""), "the corrective action has 0 characters"),
    ],
)
def test_a_root_cause_says_who_what_and_what_was_done(answer: RootCause, says: str) -> None:
    assert refuse_root_cause(CAUSE, RULES) is None
    assert says in str(refuse_root_cause(answer, RULES))


def test_nobody_has_a_permission_that_was_not_given() -> None:
    nobody = replace(RULES, people={})
    assert refusals_of_reset(GOOD, nobody, []) != []
    assert refuse_root_cause(CAUSE, nobody) is not None


def test_the_worst_colour_is_the_colour_of_the_whole() -> None:
    assert worst([]) is Colour.GREEN
    assert worst([measured(Colour.GREEN), measured(Colour.YELLOW)]) is Colour.YELLOW
    assert worst([measured(Colour.RED), measured(Colour.YELLOW)]) is Colour.RED
