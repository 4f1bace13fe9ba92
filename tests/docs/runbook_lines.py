"""Walk the operations runbook line by line: what it tells people to do, or to expect."""

from __future__ import annotations

import re
from pathlib import Path

_HEADERS = ("| Command |", "| State |", "| Condition |")


def lines_of(runbook: Path) -> list[str]:
    """Each list item, table row, command in a block and sentence that asks for something, as printed."""
    found, language = [], ""
    for line in runbook.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            language = "" if language else line[3:]
        elif language:
            if re.match(r"(make|redis-cli|PYTHONPATH)\b|SELECT", line):
                found.append(line.split('"', maxsplit=1)[0].strip() if line.startswith("PYTHONPATH") else line.strip())
        elif (
            re.match(r"\s*(-|\d+\.) ", line)
            or (line.startswith("| ") and not line.startswith(_HEADERS))
            or re.match(r"\*\*\w[^*]+:?\*\* *\S", line)
        ):
            found.append(line.strip())
    return [line for line in found if not re.match(r"- \[[^]]+\]\(", line)]
