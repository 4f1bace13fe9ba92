"""Judge who answers for what opens the way to trading past a record that is not there: two who may reset."""

from __future__ import annotations

from breaker.errors import InvalidInput
from configuration.settings import Settings


def check_two_persons(settings: Settings, first: tuple[str, ...], second: str | None) -> None:
    """`first` are the names that the first one goes by, the login last; `second` is a typed name, and kept as claimed.

    Raises InvalidInput: one of them may not reset by the configuration, the second is missing where two are asked for
    (`recovery.two_person`), or is the first.
    """
    _check_permission(settings, first[-1])
    if not settings.recovery.two_person:
        return
    if not second:
        raise InvalidInput(
            "two persons answer for this (recovery.two_person): name the other one, --second-person NAME"
        )
    if second in first:
        raise InvalidInput(f"{second} can't be both persons: somebody else must answer for it too; nothing changed")
    _check_permission(settings, second)


def _check_permission(settings: Settings, person: str) -> None:
    if "RESET_CIRCUIT" not in settings.recovery.people.get(person, ()):
        raise InvalidInput(
            f"{person} has no RESET_CIRCUIT permission under [recovery.people] in the configuration; nothing changed"
        )
