"""Write text from outside into Markdown so that it stays text."""

from __future__ import annotations

import re


def cell(text: str) -> str:
    """Harmless inside a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def inert(value: object) -> str:
    """Somebody's words, on one line and without markup of theirs; a dash for nothing."""
    return cell(" ".join(str(value or "—").split()))


def fenced(text: str, language: str = "") -> str:
    """A code block that nothing in `text` can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
