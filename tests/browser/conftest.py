"""A real Chromium. Without one these tests are skipped and say so; BREAKER_REQUIRE_BROWSER=1 makes that a failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from argon2 import PasswordHasher
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from pydantic import SecretStr

from breaker import CircuitBreaker
from configuration.accounts import AccountSettings
from configuration.settings import KillSettings, RecoverySettings, Settings
from console.auth import passwords
from console.auth.permissions import Role
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tasks.recovery import watch_here
from tests.console.harness import PASSWORD, Console
from tests.helpers import PATIENT_RECOVERY

SignIn = Callable[..., Page]


def find_chromium() -> str | None:
    """What is installed: Debian's package, or what BREAKER_CHROMIUM names."""
    named = os.environ.get("BREAKER_CHROMIUM")
    return named or next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for the whole session: while Playwright runs in a thread, no test there can have an event loop of its own."""
    executable = find_chromium()
    if executable is None:
        reason = "Chromium is not installed (Debian: apt install chromium), so no browser test ran"
        if os.environ.get("BREAKER_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield


@pytest.fixture(scope="module", autouse=True)
def resets_are_left_to_services() -> Iterator[None]:
    """A console that watches a reset may trip again; where that is tried it is patched anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch_here, "WATCHED_WITHIN", 3_600.0)
        yield


@pytest.fixture
def breaker(redis_client: redis.Redis) -> CircuitBreaker:
    made = CircuitBreaker(redis_client)
    made.initialize_state()
    return made


@pytest.fixture
def exchange() -> Iterator[PaperExchangeThread]:
    with PaperExchangeThread(parse("seed = 3\n[book]\norders = 20\npositions = 6\n")) as running:
        yield running


@pytest.fixture
def console(
    redis_server: EmbeddedRedis,
    breaker: CircuitBreaker,
    exchange: PaperExchangeThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Console]:
    monkeypatch.chdir(tmp_path)
    account = AccountSettings(base_url=exchange.url, key_id=SecretStr("key"), secret_key=SecretStr("secret"))
    settings = Settings(
        redis_url=SecretStr(redis_server.url),
        state_dir=tmp_path / "state",
        accounts={"ALPHA": account},
        recovery=RecoverySettings(**PATIENT_RECOVERY),
        kill=KillSettings(settle=0.2, guard=0.5, poll_interval=0.05, record_wait=0.1, orchestrator_wait=0.5),
    )
    with Console(settings) as running:
        yield running


@pytest.fixture
def sign_in(browser: Browser, console: Console) -> Iterator[SignIn]:
    """Opens a window of somebody's own who has signed in; there, with the keyboard alone, if that is asked."""
    contexts: list[BrowserContext] = []

    def sign_in(role: Role, *, by_keyboard: bool = False, **options: object) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        if by_keyboard:
            page.goto(f"{console.url}/login")
            expect(page.get_by_label("User")).to_be_focused()
            page.keyboard.type(console.user(f"the_{role}", role))
            page.keyboard.press("Tab")
            page.keyboard.type(PASSWORD)
            page.keyboard.press("Enter")
        else:
            with closing(console.visitor(role)) as visitor:
                for name, value in visitor.cookies.items():
                    context.add_cookies([{"name": name, "value": value, "url": console.url}])
            page.goto(console.url)
        page.get_by_role("button", name="Sign out").wait_for()
        return page

    yield sign_in
    for context in contexts:
        context.close()
