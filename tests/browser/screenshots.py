"""`python -m tests.browser.screenshots`: the sheets of docs/reference/gallery.md, each a page in all states.

`--singles FOLDER` also writes every picture by itself, for looking at it closely.
"""

from __future__ import annotations

import argparse
import base64
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import redis
from playwright.sync_api import Browser, Page, sync_playwright
from pydantic import SecretStr

from breaker import CircuitBreaker
from breaker.gate import Gate
from breaker.rules import Rules
from configuration.accounts import AccountSettings
from configuration.settings import KillSettings, Settings
from console.auth.permissions import Role
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tests.browser.conftest import find_chromium
from tests.console.harness import PASSWORD, Console, lose_a_gate
from tests.console.suspended_run import SuspendedRun, finished, waiting_for
from tests.helpers import eventually

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDE, PHONE = (1000, 820), (390, 780)
TALLEST = 1_300
"""Pixels of a page that a sheet shows; what lies below is more of the same."""
QUALITY = 62
"""Of WebP, in per cent: text is still sharp, and a sheet of eight takes some 200 kB."""
REASON = "Unusual market volatility detected, halting for review"


@dataclass
class Album:
    """Windows of one user, signed in, and what was photographed in them: caption and PNG by sheet."""

    console: Console
    browser: Browser
    singles: Path | None
    windows: dict[str, Page] = field(default_factory=dict)
    sheets: dict[str, list[tuple[str, bytes]]] = field(default_factory=lambda: defaultdict(list))

    def open(self, user: str) -> None:
        for look, (size, scheme) in {
            "light": (WIDE, "light"),
            "dark": (WIDE, "dark"),
            "phone": (PHONE, "dark"),
        }.items():
            viewport = {"width": size[0], "height": size[1]}
            page = self.browser.new_context(viewport=viewport, color_scheme=scheme).new_page()  # type: ignore[arg-type]
            page.goto(f"{self.console.url}/login")
            page.get_by_label("User").wait_for()
            self.windows[look] = page
        for look in ("light", "dark"):
            self.shoot(look, "sign-in", f"Sign in, {look}")
        for page in self.windows.values():
            page.get_by_label("User").fill(user)
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("heading", name="Circuit Breaker").wait_for()

    def take(self, path: str, sheet: str, caption: str, seen: str, *, phone: bool = False) -> None:
        """Light and dark once `seen` is on the page, and on a phone where that shows something else."""
        for look in ("light", "dark", *(["phone"] if phone else [])):
            page = self.windows[look]
            page.goto(self.console.url + path)
            page.get_by_text(seen).first.wait_for(timeout=15_000)
            page.locator("text=Being measured").or_(page.locator("text=being asked")).last.wait_for(state="detached")
            page.locator("body[data-connection=live], body:not([data-topics])").wait_for()
            self.shoot(look, "phone" if look == "phone" else sheet, f"{caption}, {look}")

    def shoot(self, look: str, sheet: str, caption: str) -> None:
        picture = self.windows[look].screenshot(full_page=True, animations="disabled")
        self.sheets[sheet].append((caption, picture))
        if self.singles:
            (self.singles / f"{caption.lower().replace(',', '').replace(' ', '-')}.png").write_bytes(picture)

    def write(self) -> None:
        for sheet, pictures in self.sheets.items():
            columns, width = (4, PHONE[0]) if sheet == "phone" else (2, WIDE[0])
            (IMAGES / f"console-{sheet}.webp").write_bytes(self._compose(pictures, columns, width))

    def _compose(self, pictures: list[tuple[str, bytes]], columns: int, width: int) -> bytes:
        figures = "".join(
            f"<figure><figcaption>{caption}</figcaption>"
            f"<div><img width={width} src='data:image/png;base64,{base64.b64encode(png).decode()}'></div></figure>"
            for caption, png in pictures
        )
        style = (
            f"body{{margin:0;padding:16px;background:#8b8f96;display:grid;gap:16px;"
            f"grid-template-columns:repeat({columns},{width}px);align-items:start}}"
            f"figure{{margin:0}}figcaption{{font:600 20px sans-serif;margin-bottom:6px}}img{{display:block}}"
            f"div{{max-height:{TALLEST}px;overflow:hidden}}"
        )
        page = self.browser.new_page(viewport={"width": columns * (width + 16) + 16, "height": 800})
        page.set_content(f"<style>{style}</style>{figures}")
        height = page.evaluate("document.documentElement.scrollHeight")
        page.set_viewport_size({"width": columns * (width + 16) + 16, "height": height})
        shot = page.context.new_cdp_session(page).send(
            "Page.captureScreenshot", {"format": "webp", "quality": QUALITY, "captureBeyondViewport": True}
        )
        page.close()
        return base64.b64decode(shot["data"])


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--singles", type=Path, help="folder for every picture by itself")
    singles: Path | None = options.parse_args().singles
    if singles:
        singles.mkdir(parents=True, exist_ok=True)
    with _site() as (console, client), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        album = Album(console, browser, singles)
        _photograph(album, client)
        album.write()
        browser.close()
    return 0


@contextmanager
def _site() -> Iterator[tuple[Console, redis.Redis]]:
    with ExitStack() as started:
        home = Path(started.enter_context(tempfile.TemporaryDirectory()))
        server = started.enter_context(EmbeddedRedis(home / "redis"))
        scenario = parse(
            "seed = 5\nlatency_ms = 40\n[book]\norders = 42\npositions = 14\n"
            "[fills]\nslippage_bp = { low = 0.0, high = 14.0 }\n"
        )
        exchange = started.enter_context(PaperExchangeThread(scenario))
        account = AccountSettings(base_url=exchange.url, key_id=SecretStr("key"), secret_key=SecretStr("secret"))
        settings = Settings(
            redis_url=SecretStr(server.url),
            state_dir=home / "state",
            accounts={"ALPHA": account},
            kill=KillSettings(settle=0.5, guard=3.0),
        )
        console = started.enter_context(Console(settings))
        console.user("ada", Role.ADMIN)
        client = redis.Redis.from_url(server.url)
        yield console, client
        client.close()


def _photograph(album: Album, client: redis.Redis) -> None:
    breaker, rules = CircuitBreaker(client), Rules(client)
    album.open("ada")
    album.take("/circuit-breaker", "circuit-breaker", "UNKNOWN", "UNKNOWN", phone=True)
    breaker.initialize_state(by="ada")
    rules.record_equity("1000000")
    rules.record_equity("981500")
    for _ in range(3):
        rules.record_api_error("alpaca")
    album.take("/circuit-breaker", "circuit-breaker", "OPEN", "OPEN", phone=True)
    album.take("/circuit-breaker/trip", "dialogs", "Trip", "Confirm Trip", phone=True)
    album.take("/circuit-breaker/kill", "dialogs", "Kill switch", "positions", phone=True)
    breaker.trip("MANUAL", details={"operator": "ada", "reason": REASON}, tripped_by="ada")
    album.take("/circuit-breaker", "circuit-breaker", "TRIPPED", "TRIPPED", phone=True)
    album.take("/circuit-breaker/reset", "dialogs", "Reset", "Confirm Reset")
    incident = str(breaker.get_status().incident_id)
    with SuspendedRun():
        waiting = waiting_for(client, "root-cause", incident)
        album.take("/recovery", "recovery", "Waiting for the root cause", "ROOT CAUSE NEEDED")
        album.take("/recovery/answer", "recovery", "The root cause, to write", "Root cause")
        waiting = waiting_for(client, "approval", incident)
        album.take("/recovery", "recovery", "Waiting for the approval", "APPROVAL NEEDED", phone=True)
        album.take("/recovery/answer", "recovery", "The approval, to sign", "Approv")
        finished(client, waiting)
    breaker.reset(reset_by="grace", reason="Market conditions normalized, system health verified, resuming")
    album.take("/circuit-breaker", "circuit-breaker", "QUIET PERIOD", "QUIET PERIOD", phone=True)
    run = _start_kill(album)
    for look in ("light", "dark"):
        album.windows[look].goto(album.console.url + run)
        album.windows[look].get_by_text("closes").first.wait_for()
        album.shoot(look, "kill", f"Kill switch under way, {look}")
    album.windows["light"].get_by_text("FLAT", exact=True).wait_for(timeout=60_000)
    album.take(run, "kill", "Kill switch done", "FLAT")
    album.take("/incidents", "incidents", "Incidents", "MANUAL", phone=True)
    album.take("/audit", "audit-and-health", "Audit Log", "KILL_SWITCH", phone=True)
    lose_a_gate(client)
    with Gate(client, scopes=["account:ALPHA"]):
        eventually(lambda: any(b"TRIPPED" in report for report in client.hvals("circuit_breaker:gate_reports")))
        album.take("/system-health", "audit-and-health", "System Health", "engine-7", phone=True)


def _start_kill(album: Album) -> str:
    """Confirm the kill switch; the path of the page that shows it."""
    page = album.windows["light"]
    page.goto(f"{album.console.url}/circuit-breaker/kill")
    page.get_by_label("Reason").fill("Exchange reports fills that our engine never sent")
    page.get_by_label("I understand").check()
    page.get_by_label("Type FLATTEN").fill("FLATTEN")
    page.get_by_role("button", name="Confirm Kill Switch").click()
    page.wait_for_selector(".panel progress")
    return page.url.removeprefix(album.console.url)


if __name__ == "__main__":
    sys.exit(main())
