"""`python -m tests.browser.terminal_picture`: what `make demo VENUES=all` leaves on a terminal of 80 columns.

Into docs/images, as two columns of a sheet.
"""

from __future__ import annotations

import base64
import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tests.browser.conftest import find_chromium
from tests.helpers import shown_on

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "images" / "demo-at-all-venues.webp"
COLUMNS = 80
WIDTH = 1420
"""Pixels of the sheet, for two columns of that many characters."""
QUALITY = 70
"""Of WebP, in per cent."""
CONTROLS = re.compile(r"(\r?\n|\r|\x1b\[2K|\x1b\[\d*A|\x1b\[\?\d+[hl])")
"""What moves the cursor or erases, of what rich writes; colours are left to it."""
STYLE = """\
body { margin: 0; background: #1b1d23; color: #e6e6e6 }
main { padding: 20px; width: 1380px; columns: 2; column-gap: 40px }
pre { margin: 0; font: 13px/1.35 'DejaVu Sans Mono', monospace; orphans: 1; widows: 1 }
"""


def main() -> int:
    picture = photographed(shown(output_of([sys.executable, "-m", "deployments.demo", "--venues", "all"])))
    PICTURE.write_bytes(picture)
    return 0


def output_of(command: list[str]) -> str:
    """All that a command writes to a terminal. Raises RuntimeError where it fails."""
    ours, terminal = pty.openpty()
    size = {"COLUMNS": str(COLUMNS), "LINES": "50", "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **size}, stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    said = shown_on(ours)
    if process.wait():
        raise RuntimeError(said)
    return said


def shown(written: str) -> list[str]:
    """The lines that are there at the end: what was written over or erased is not."""
    lines, row = [""], 0
    for part in CONTROLS.split(written):
        if part in ("\n", "\r\n"):
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part.startswith("\x1b[") and part.endswith("A"):
            row = max(row - int(part[2:-1] or 1), 0)
        elif part != "\r" and not part.startswith("\x1b[?"):
            lines[row] += part
    return lines


def photographed(lines: list[str]) -> bytes:
    """These lines, with their colours, as WebP."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi("\n".join(lines)))
    html = console.export_html(theme=MONOKAI, inline_styles=True, code_format="<main><pre>{code}</pre></main>")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 400})
        page.set_content(f"<!doctype html><style>{STYLE}</style>{html}")
        page.set_viewport_size({"width": WIDTH, "height": page.evaluate("document.body.scrollHeight")})
        shot = page.context.new_cdp_session(page).send(
            "Page.captureScreenshot", {"format": "webp", "quality": QUALITY, "captureBeyondViewport": True}
        )
        browser.close()
    return base64.b64decode(shot["data"])


if __name__ == "__main__":
    sys.exit(main())
