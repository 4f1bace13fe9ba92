"""Check what people say of a trip, a reset or a kill switch, by one rule set for every way in.

What lets trading resume is refused for its words; what halts is not: they are made fit instead, which is said.
"""

from __future__ import annotations

from dataclasses import dataclass

from breaker.errors import InvalidInput

MIN_REASON = 20
"""Characters (runbook, *Trip via Web Console* and *Reset via Web Console*)."""
MAX_REASON = 500
MAX_OPERATOR = 128
NO_REASON = "no reason given"
KILL_CONFIRMATION = "FLATTEN"
"""What has to be typed before anything is cancelled or closed."""
FLATTENS_IF_CONFIRMED = "once it is confirmed"
FLATTENS_NOTHING = "nothing, as there was nobody to ask"
"""What the trip of a kill switch that doesn't flatten at once says of it, in its details' `flattens`."""


@dataclass(frozen=True, slots=True)
class FitLine:
    """Words of a halt as they are kept: one line, not too long. `changed` says what was done to them, if anything."""

    text: str
    changed: str = ""


def checked_reason(text: str, at_least: int = MIN_REASON) -> str:
    """The reason without blanks around it. Raises InvalidInput: too short, too long or not one line of text."""
    reason = text.strip()
    if not at_least <= len(reason) <= MAX_REASON:
        problem = f"this has {len(reason)}"
    elif unfit := _unfit(reason):
        problem = f"this holds {unfit}"
    else:
        return reason
    raise InvalidInput(f"A reason is one line of {at_least} to {MAX_REASON} characters, {problem}; nothing changed.")


def halt_reason(text: str, at_least: int = 1) -> FitLine:
    """The reason of a trip or a kill switch, made fit. Raises InvalidInput only where a page's `at_least` is missed."""
    fit = _fit("reason", text, MAX_REASON)
    if at_least > 1:
        checked_reason(fit.text, at_least)
    return fit if fit.text else FitLine(NO_REASON, f'the reason was empty; kept is "{NO_REASON}"')


def halt_operator(name: str) -> FitLine:
    """The name of whoever halts, made fit; empty where none is left."""
    return _fit("operator's name", name, MAX_OPERATOR)


def _fit(what: str, text: str, longest: int) -> FitLine:
    text = text.strip()
    line = "".join(character if character.isprintable() else " " for character in text).strip()
    done = []
    if unfit := _unfit(text):
        done.append(f"held {unfit}, kept as blanks")
    if len(line) > longest:
        done.append(f"had {len(line)} characters, of which the first {longest} are kept")
    return FitLine(line[:longest].strip(), f"the {what} {' and '.join(done)}" if done else "")


def _unfit(text: str) -> str:
    """What keeps it from being one line of plain text, in words; empty for nothing."""
    if len(text.splitlines()) > 1:
        return "a line break"
    character = next((each for each in text if not each.isprintable()), None)
    return "" if character is None else f"a character that can't be shown ({ascii(character)[1:-1]})"
