"""Check what people say of a trip, a reset or a kill switch, by one rule set for every way in."""

from __future__ import annotations

from breaker.errors import InvalidInput

MIN_REASON = 20
"""Characters (runbook, *Trip via Web Console* and *Reset via Web Console*)."""
MAX_REASON = 500
KILL_CONFIRMATION = "FLATTEN"
"""What has to be typed before anything is cancelled or closed."""


def checked_reason(text: str, at_least: int = MIN_REASON) -> str:
    """The reason without blanks around it. Raises InvalidInput: too short, too long or not one line of text."""
    reason = text.strip()
    if not at_least <= len(reason) <= MAX_REASON or not reason.isprintable():
        raise InvalidInput(
            f"A reason is one line of {at_least} to {MAX_REASON} characters, this has {len(reason)}; nothing changed."
        )
    return reason
