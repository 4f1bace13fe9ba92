"""Name the breaker's keys in Redis, as the operations runbook has them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from breaker.errors import InvalidInput

GLOBAL = "global"
ASKED_KILLS = "circuit_breaker:asked_kills"
"""A hash: by event id the trip of each kill switch that was confirmed and has given no sign of life yet. The script
that trips writes it where the trip's details tell what it `closes`.
"""
KILL_RUNS = "circuit_breaker:kill_runs"
"""A sorted set: the ids of the newest runs of the kill switch, by their start."""
KILL_RUN = "circuit_breaker:kill_run:"
"""Before a run's id: how it stands, as JSON, written at least once a second while it goes on."""
KILL_RUN_KEPT = 86_400
"""Seconds for which that is kept since it was written."""
_SCOPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(:[A-Za-z0-9_.-]+)?")
_SCOPE_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Keys:
    """Every key that the breaker of one scope uses."""

    scope: str
    state: str
    history: str
    outbox: str
    event_ids: str
    reset_rate_limit: str

    @property
    def of_transition(self) -> tuple[str, str, str, str, str]:
        """What every script that makes a transition is given first, in this order."""
        return (self.state, self.history, self.outbox, self.event_ids, self.reset_rate_limit)

    def key(self, name: str) -> str:
        """The key of this scope for `name`, such as `equity` or `heartbeat:quotes`."""
        return f"circuit_breaker:{name}" + ("" if self.scope == GLOBAL else f":{self.scope}")

    @classmethod
    def of(cls, scope: str = GLOBAL) -> Keys:
        """The keys of `scope`; those of `global` have no suffix. The reset rate limit is one for all scopes.

        Raises InvalidInput for a scope that isn't like `global`, `account:ALPHA` or `strategy:meanrev`.
        """
        check_scope(scope)
        suffix = "" if scope == GLOBAL else f":{scope}"
        return cls(
            scope=scope,
            state=f"circuit_breaker:state{suffix}",
            history=f"circuit_breaker:history{suffix}",
            outbox=f"circuit_breaker:outbox{suffix}",
            event_ids=f"circuit_breaker:event_ids{suffix}",
            reset_rate_limit="circuit_breaker:reset_rate_limit",
        )


def of_scope(scope: str) -> str:
    """The option that names a breaker to a command; nothing for the one that commands act on unless told."""
    return "" if scope == GLOBAL else f" --scope {scope}"


def scope_of_state(key: str) -> str:
    """Whose state that key holds."""
    return key.removeprefix("circuit_breaker:state").removeprefix(":") or GLOBAL


def is_scope(scope: object) -> bool:
    """Whether a breaker can be called that."""
    return isinstance(scope, str) and len(scope) <= _SCOPE_LENGTH and _SCOPE.fullmatch(scope) is not None


def check_scope(scope: str) -> None:
    """Raise InvalidInput unless `scope` is a word or `kind:name`, at most 64 characters of A-Z a-z 0-9 _ . -."""
    if not is_scope(scope):
        raise InvalidInput(
            f"The scope {scope!r:.80} can't be used; nothing was changed. Use 'global' or 'kind:name' like "
            f"'account:ALPHA': letters, digits, '_', '.', '-', at most {_SCOPE_LENGTH} characters."
        )
