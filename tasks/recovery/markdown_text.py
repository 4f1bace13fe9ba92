"""Put somebody's words into Markdown: on one line, and no markup of theirs."""

from __future__ import annotations


def inert(value: object) -> str:
    """A dash for nothing."""
    return " ".join(str(value or "—").split()).replace("|", "\\|").replace("<", "&lt;")
