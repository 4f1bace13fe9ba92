"""Decide which request gets into which trouble; the edge of the server carries it out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random

from sandbox.exchange.scenario import Scenario, Trouble


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """What will happen to one request."""

    latency: float
    """Seconds in all, half of them before the request takes effect."""
    trouble: Trouble | None


class TroubleRules:
    """Plans each request from the scenario's rules, the first matching one first."""

    def __init__(self, scenario: Scenario, random: Random) -> None:
        self._latency = scenario.latency_ms
        self._random = random
        self._rules: list[tuple[Trouble, list[int]]] = []
        self.replace_rules(scenario.trouble)

    def replace_rules(self, rules: tuple[Trouble, ...]) -> None:
        self._rules = [(rule, [-rule.skip]) for rule in rules]

    def add_rule(self, rule: Trouble) -> None:
        self._rules.append((rule, [-rule.skip]))

    def plan(self, route: str, now: float) -> RequestPlan:
        """`route` is a method and a path pattern such as `DELETE /v2/orders/{id}`."""
        return RequestPlan(self._latency.sample(self._random) / 1000, self._pick(route, now))

    def _pick(self, route: str, now: float) -> Trouble | None:
        for rule, times in self._rules:
            if (
                rule.after <= now < (math.inf if rule.until is None else rule.until)
                and (rule.first is None or times[0] < rule.first)
                and any(fnmatchcase(route, pattern) for pattern in rule.routes)
                and self._random.random() < rule.probability
            ):
                times[0] += 1
                if times[0] > 0:
                    return rule
        return None
