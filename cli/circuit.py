"""Read and change a breaker where the command line is pointed to: by this host's configuration, or by a console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from breaker.events import History
from breaker.state import Status
from brokers.coverage import NamedScope
from cli.environment import through_console
from cli.options import ResetOptions
from tasks.kill.pending_exit_store import Reading
from tasks.kill.venue_lock_store import LockReading


class Circuit(Protocol):
    """Its methods raise what `breaker.CircuitBreaker` raises, and NotHalted where a trip waits on the disk."""

    def target(self) -> str:
        """Environment, Redis and accounts, or the console; one line."""

    def say_what_is_acted_on(self) -> None:
        """On standard error, before anything is done."""

    def status(self, scope: str) -> Status:
        """Read afresh."""

    def restricted(self, scope: str) -> Mapping[str, Status]:
        """For `global` the other breakers that are not OPEN, worst first; says it on standard error if nobody knows."""

    def history(self, scope: str, limit: int) -> History:
        """Newest first; says it on standard error where it comes from elsewhere than Redis."""

    def named(self, scope: str) -> NamedScope:
        """The breaker that was meant by what was typed. Raises InvalidInput for what is no scope."""

    def trip(self, scope: str, reason: str, operator: str | None) -> tuple[str, Status]:
        """The breaker that was meant, and its state; says it on standard error where a trip of it may halt nobody."""

    def reset(self, ask: ResetOptions) -> Status:
        """Says on standard error what became of the equity. Raises ResetRefused too, or what a console says of it."""

    def foreseen_trip(self, scope: str) -> str:
        """That the next measurement of equity trips again, with the figures; empty where none would or nobody knows."""

    def watch(self, scope: str) -> None:
        """See to it that the reset is watched; called once it is shown and in the audit log."""

    def pending_exits(self, scope: str) -> Reading:
        """What kill switches have left to be closed later; for `global` that of every scope."""

    def venue_locks(self, scope: str) -> LockReading:
        """The accounts that kill switches have locked at their venue; for `global` those of every scope."""

    def drop_pending_exits(self, scope: str, reason: str, operator: str | None) -> None:
        """Give up what is pending for the breaker of `scope`, on record. Raises LedgerError: nothing is dropped."""

    def tell(self, scope: str) -> None:
        """See to it that people are told; called once it has been shown, and holds nothing up."""

    def record(self, scope: str) -> None:
        """See to it that what was done is in the audit log; called once it has been shown."""


def open_circuit() -> Circuit:
    """Raises ConfigurationError, or InvalidInput for a console that can't be used."""
    if through_console():
        from cli.remote_circuit import RemoteCircuit  # noqa: PLC0415  not needed where the halt is made here

        return RemoteCircuit.from_environment()
    from cli.transitions import LocalCircuit  # noqa: PLC0415
    from configuration.settings import load_settings  # noqa: PLC0415

    return LocalCircuit(load_settings())
