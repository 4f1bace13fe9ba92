"""Read the documentation as its readers do: pages, links, headings, and what stands in code."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
GIVEN = ROOT / "docs" / "evidence" / "operations-runbook.md"
"""The runbook as it was given, to the letter; its links lead to documents that came without it."""
_BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`+([^`]+)`+")
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> Iterator[str]:
    """Every relative link, and every image, of the page."""
    for target in _LINK.findall(prose(page)):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """What links to headings of the page say behind the `#`, as GitHub and the site have it."""
    bare = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading) for heading in _HEADING.findall(prose(page)))
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in bare}


def blocks(page: Path, language: str) -> Iterator[str]:
    """The page's blocks of code in one language."""
    for _, said, code in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if said == language:
            yield textwrap.dedent(code)


def commands(page: Path) -> Iterator[str]:
    """Every line of shell in blocks, and every span of code in the prose."""
    for block in blocks(page, "bash"):
        yield from block.replace("\\\n", " ").splitlines()
    for span in _SPAN.findall(prose(page)):
        yield " ".join(span.split())


def table_words(page: Path, pattern: str) -> set[str]:
    """What stands in code in the first column of the page's tables and matches `pattern`."""
    rows = re.findall(r"^\| ([^|]+) \|", prose(page), re.MULTILINE)
    return {word for row in rows for word in _SPAN.findall(row) if re.fullmatch(pattern, word)}


def sources() -> Iterator[Path]:
    """Every file of product code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for package in project["tool"]["importlinter"]["root_packages"]:
        yield from (path for kind in ("*.py", "*.lua") for path in (ROOT / package).rglob(kind))
