"""Read and change a breaker through a console, held to the permissions of the token's user.

Nothing on this host is needed: no Redis, no venue's credentials.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from breaker.errors import InvalidInput
from breaker.events import History
from breaker.keys import GLOBAL, check_scope
from breaker.state import Status
from brokers.coverage import NamedScope
from cli.acting_on import say_doubt
from cli.console_client import ConsoleClient
from cli.environment import TOKEN, URL
from cli.messages import say
from cli.options import ResetOptions
from tasks.kill.pending_exit_store import Reading
from tasks.kill.venue_lock_store import LockReading


@dataclass(frozen=True, slots=True)
class RemoteCircuit:
    """Its methods raise what ConsoleClient's raise."""

    console: ConsoleClient

    @classmethod
    def from_environment(cls) -> RemoteCircuit:
        """Raises InvalidInput for an address or a token that can't be used."""
        return cls(ConsoleClient.from_environment())

    def target(self) -> str:
        return f"the console at {self.console.url}"

    def say_what_is_acted_on(self) -> None:
        say(f"through {self.target()}")

    def status(self, scope: str) -> Status:
        return self.console.status(scope)

    def restricted(self, scope: str) -> Mapping[str, Status]:
        return self.console.restricted() if scope == GLOBAL else {}

    def history(self, scope: str, limit: int) -> History:
        return self.console.history(scope, limit)

    def named(self, scope: str) -> NamedScope:
        """By the console, whose the accounts are."""
        check_scope(scope)
        return NamedScope(scope) if scope == GLOBAL else self.console.named(scope)

    def trip(self, scope: str, reason: str, operator: str | None) -> tuple[str, Status]:
        """Nothing is asked before: what it is called, and whether that is known, is said by the trip's answer."""
        say_who_acts(operator)
        named, status = self.console.trip(scope, reason)
        say_doubt(named.scope, named.doubt)
        return named.scope, status

    def reset(self, ask: ResetOptions) -> Status:
        """The console judges it, by the rules of every way in."""
        say_who_acts(ask.operator)
        answer = self.console.reset(
            ask.scope, ask.reason, ask.override, ask.expected_epoch, rebase_equity=ask.rebase_equity
        )
        if answer.rebased:
            say(answer.rebased)
        if answer.equity_warning:
            say(f"reset, but {answer.equity_warning}")
        return answer.status

    def foreseen_trip(self, scope: str) -> str:
        return self.console.foreseen_trip(scope)

    def watch(self, scope: str) -> None:
        """The services of the console's hosts do so."""

    def pending_exits(self, scope: str) -> Reading:
        """Not told by the console's API; its pages show them."""
        return Reading()

    def venue_locks(self, scope: str) -> LockReading:
        """Not told by the console's API; its pages show them."""
        return LockReading()

    def drop_pending_exits(self, scope: str, reason: str, operator: str | None) -> None:
        """Raises InvalidInput."""
        raise InvalidInput(
            f"--drop-pending is local only: {URL} names a console; nothing was done. There, overriding the condition "
            "position-sizes/pending-exits (reset --override) drops what is pending"
        )

    def tell(self, scope: str) -> None:
        """The console's hosts do so."""

    def record(self, scope: str) -> None:
        """The console has done so."""


def say_who_acts(operator: str | None) -> None:
    if operator is not None:
        say(f"--operator is not used: through {URL} it is the user of {TOKEN} who does this")
