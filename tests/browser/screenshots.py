"""`python -m tests.browser.screenshots`: the console's pages in every state, dark and light, for the documentation."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis
from playwright.sync_api import Browser, Page, sync_playwright
from pydantic import SecretStr

from breaker import CircuitBreaker
from breaker.rules import Rules
from breaker.settings import AccountSettings, KillSettings, Settings
from brokers.paper.scenario import parse
from brokers.paper.server import PaperExchangeThread
from console.permissions import Role
from deployments.embedded_redis import EmbeddedRedis
from tests.browser.conftest import find_chromium
from tests.console.harness import PASSWORD, Console
from tests.console.suspended_run import SuspendedRun, waiting_for

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDE = {"width": 1180, "height": 900}
PHONE = {"width": 390, "height": 844}
REASON = "Unusual market volatility detected, halting for review"


def main() -> int:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with ExitStack() as started, sync_playwright() as playwright:
        home = Path(started.enter_context(tempfile.TemporaryDirectory()))
        server = started.enter_context(EmbeddedRedis(home / "redis"))
        exchange = started.enter_context(PaperExchangeThread(parse("seed = 5\n[book]\norders = 42\npositions = 14\n")))
        client = redis.Redis.from_url(server.url)
        settings = Settings(
            redis_url=SecretStr(server.url),
            state_dir=home / "state",
            accounts={
                "ALPHA": AccountSettings(base_url=exchange.url, key_id=SecretStr("key"), secret_key=SecretStr("secret"))
            },
            kill=KillSettings(settle=0.5, guard=2.0),
        )
        console = started.enter_context(Console(settings))
        console.user("ada", Role.ADMIN)
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        _take_all(browser, console, client)
        browser.close()
    return 0


def _take_all(browser: Browser, console: Console, client: redis.Redis) -> None:
    breaker = CircuitBreaker(client)
    rules = Rules(client)
    with _pages(browser, console) as pages:
        _take(pages, "/circuit-breaker", "unknown", "UNKNOWN")
        breaker.initialize_state(by="ada")
        rules.record_equity("1000000")
        rules.record_equity("981500")
        for _ in range(3):
            rules.record_api_error("alpaca")
        _take(pages, "/circuit-breaker", "open", "OPEN")
        _take(pages, "/circuit-breaker/trip", "trip", "Confirm Trip")
        _take(pages, "/circuit-breaker/kill", "kill-confirm", "positions")
        breaker.trip("MANUAL", details={"operator": "ada", "reason": REASON}, tripped_by="ada")
        _take(pages, "/circuit-breaker", "tripped", "TRIPPED")
        _take(pages, "/circuit-breaker/reset", "reset", "Confirm Reset")
        with SuspendedRun():
            waiting_for(client, "approval", str(breaker.get_status().incident_id))
            _take(pages, "/recovery", "recovery", "APPROVAL NEEDED")
        breaker.reset(reset_by="grace", reason="Market conditions normalized, system health verified, resuming")
        _take(pages, "/circuit-breaker", "quiet", "QUIET PERIOD")
        page = pages["light"]
        page.goto(f"{console.url}/circuit-breaker/kill")
        page.get_by_label("Reason").fill("Exchange reports fills that our engine never sent")
        page.get_by_label("I understand").check()
        page.get_by_label("Type FLATTEN").fill("FLATTEN")
        page.get_by_role("button", name="Confirm Kill Switch").click()
        page.wait_for_selector(".panel progress")
        page.wait_for_timeout(700)
        page.screenshot(path=IMAGES / "console-kill-light.png")
        page.get_by_text("FLAT", exact=True).wait_for(timeout=60_000)
        path = page.url.removeprefix(console.url)
        _take(pages, path, "flat", "FLAT")
        _take(pages, "/audit", "audit", "KILL_SWITCH")
        _take(pages, "/system-health", "health", "postgresql")


@contextmanager
def _pages(browser: Browser, console: Console) -> Iterator[dict[str, Page]]:
    pages = {
        "light": browser.new_context(viewport=WIDE, color_scheme="light").new_page(),  # type: ignore[arg-type]
        "dark": browser.new_context(viewport=WIDE, color_scheme="dark").new_page(),  # type: ignore[arg-type]
        "phone": browser.new_context(viewport=PHONE, color_scheme="dark", device_scale_factor=1).new_page(),  # type: ignore[arg-type]
    }
    for page in pages.values():
        page.goto(f"{console.url}/login")
        page.get_by_label("User").fill("ada")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Circuit Breaker").wait_for()
    yield pages


def _take(pages: dict[str, Page], path: str, name: str, seen: str) -> None:
    for look, page in pages.items():
        if look == "phone" and name != "tripped":
            continue
        page.goto("/".join([*page.url.split("/")[:3], path.lstrip("/")]))
        page.get_by_text(seen).first.wait_for(timeout=10_000)
        page.wait_for_timeout(1_500)
        page.screenshot(path=IMAGES / f"console-{name}-{look}.png", full_page=look == "phone")


if __name__ == "__main__":
    sys.exit(main())
