"""Find the environments that `make engines-test` has made for engines too large for the one of every day."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks

ENVIRONMENTS = ROOT / ".engines"


def needs(engine: str, program: str = "python") -> pytest.MarkDecorator:
    """Skips where that engine is not installed."""
    missing = not (ENVIRONMENTS / engine / "bin" / program).exists()
    return pytest.mark.skipif(missing, reason=f"{engine} is not installed: make engines-test")


def program(engine: str, name: str = "python") -> str:
    return str(ENVIRONMENTS / engine / "bin" / name)


def environment(directory: Path, **more: str) -> dict[str, str]:
    """In which the engine finds this checkout's library, and no other of its packages."""
    library = directory / "library"
    library.mkdir(exist_ok=True)
    (library / "breaker").symlink_to(ROOT / "breaker")
    return {**os.environ, "PYTHONPATH": str(library), "PYTHONUNBUFFERED": "1", **more}


def page_program(page: str) -> str:
    """The complete program of a how-to page."""
    return next(iter(blocks(ROOT / "docs" / "how-to" / page, "python")))
