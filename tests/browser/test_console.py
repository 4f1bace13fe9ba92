"""The console in a real browser: as the runbook says, live, lost, without JavaScript, and by two people at once."""

from __future__ import annotations

import re
import time
from typing import Literal

import pytest
import redis
from playwright.sync_api import Page, expect

from breaker import CircuitBreaker, State
from breaker.transition_terms import Watching
from console.auth.permissions import PERMISSIONS, Permission, Role
from sandbox.exchange.server import PaperExchangeThread
from tests.browser.conftest import SignIn
from tests.console.harness import REASON, Console

expect.set_options(timeout=15_000)


SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def state_on(page: Page) -> str:
    return page.locator(".panel.state .word:visible").inner_text()


@pytest.mark.parametrize("role", list(Role))
def test_every_role_signs_in_and_sees_what_it_may_do(sign_in: SignIn, breaker: CircuitBreaker, role: Role) -> None:
    breaker.trip("MANUAL")
    page = sign_in(role, by_keyboard=True)
    for permission, name in (
        (Permission.TRIP_CIRCUIT, "Trip Circuit Breaker"),
        (Permission.RESET_CIRCUIT, "Reset Circuit Breaker"),
        (Permission.KILL_SWITCH, "Kill Switch …"),
        (Permission.VIEW_AUDIT, "Audit Log"),
    ):
        expect(page.get_by_role("link", name=name, exact=True)).to_have_count(int(permission in PERMISSIONS[role]))


@pytest.mark.parametrize("javascript", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_the_runbooks_trip_and_reset(
    sign_in: SignIn, breaker: CircuitBreaker, redis_client: redis.Redis, javascript: bool
) -> None:
    page = sign_in(Role.ADMIN, java_script_enabled=javascript)
    assert state_on(page) == "OPEN"
    page.get_by_role("link", name="Trip Circuit Breaker").click()
    page.get_by_label("Reason").fill(REASON)
    page.get_by_label("I understand").check()
    page.get_by_role("button", name="Confirm Trip").click()
    expect(page.locator(".panel.state .word:visible")).to_have_text("TRIPPED")
    assert breaker.get_state() is State.TRIPPED
    page = sign_in(Role.RISK_MANAGER, java_script_enabled=javascript)  # whoever tripped does not reset
    page.get_by_role("link", name="Reset Circuit Breaker").click()
    expect(page.locator(".measurements .name").get_by_text("ledger", exact=True)).to_be_visible()
    page.get_by_label("Reason").fill("Market conditions normalized, resuming trading")
    page.get_by_label("The cause is understood").check()
    page.get_by_label("Override").fill("The orders that are working are the desk's own")
    page.get_by_role("button", name="Confirm Reset").click()
    expect(page.locator(".panel.state .word:visible")).to_have_text("QUIET PERIOD")
    expect(page.get_by_text("A quiet period has begun")).to_be_visible()
    status = breaker.get_status()
    assert status.state is State.QUIET_PERIOD
    if javascript:
        key, now = "circuit_breaker:reset_watch", round(time.time() * 1000)
        for field, value in ("epoch", status.epoch or 0), ("began", now - 3_600_000), ("seen", now):
            redis_client.hset(key, field, str(value))
        redis_client.hset(key, "holder", "recovery")
        watching = Watching(key, "recovery", silent=3_600.0, lasting=60.0)
        breaker.end_quiet_period(expected_epoch=status.epoch or 0, by="recovery watch", watch=watching)
        expect(page.get_by_text("A quiet period has begun")).to_be_hidden()


def test_a_short_reason_is_counted_as_it_is_typed_and_not_sent(sign_in: SignIn, breaker: CircuitBreaker) -> None:
    page = sign_in(Role.OPERATOR)
    page.get_by_role("link", name="Trip Circuit Breaker").click()
    page.get_by_label("Reason").press_sequentially("too short")
    expect(page.locator(".count")).to_have_text("9 of at least 20 characters")
    page.get_by_label("I understand").check()
    page.get_by_role("button", name="Confirm Trip").click()
    assert page.url.endswith("/trip")
    assert breaker.get_state() is State.OPEN
    page.get_by_label("Reason").press_sequentially(" no longer 🛑")
    expect(page.locator(".count.enough")).to_have_text("21 of at least 20 characters")


def test_a_trip_from_elsewhere_is_on_the_page_at_once(sign_in: SignIn, breaker: CircuitBreaker) -> None:
    page = sign_in(Role.RISK_MANAGER)
    expect(page.get_by_text("Live. State read")).to_be_visible()
    expect(page.get_by_role("link", name="Reset Circuit Breaker")).to_be_hidden()
    breaker.trip("DRAWDOWN", details={"measured": "6.1%"})
    expect(page.locator(".panel.state .word:visible")).to_have_text("TRIPPED")
    expect(page.locator(".banner .badge:visible")).to_contain_text("TRIPPED")
    expect(page.locator("[data-announce]")).to_contain_text("TRIPPED")
    expect(page.get_by_role("link", name="Reset Circuit Breaker")).to_be_visible()
    expect(page.get_by_text("6.1%").first).to_be_visible()
    expect(page.locator("[data-topic='history:global']")).to_contain_text("DRAWDOWN")


def test_a_console_that_stops_is_shown_as_lost(sign_in: SignIn, console: Console) -> None:
    page = sign_in(Role.VIEWER)
    expect(page.get_by_text("Live. State read")).to_be_visible()
    console.stop()
    expect(page.get_by_text("Connection lost")).to_be_visible()
    assert state_on(page) == "NOT KNOWN"
    expect(page.get_by_text("OPEN when last heard of")).to_be_visible()


def test_a_missing_state_is_unknown_and_says_what_to_do(
    sign_in: SignIn, breaker: CircuitBreaker, redis_client: redis.Redis
) -> None:
    page = sign_in(Role.VIEWER)
    redis_client.delete("circuit_breaker:state")
    expect(page.locator(".panel.state .word:visible")).to_have_text("UNKNOWN")
    expect(page.get_by_text("breaker init")).to_be_visible()


def test_two_people_at_once(sign_in: SignIn, breaker: CircuitBreaker) -> None:
    """One resets what the other has just tripped again: the reset is refused, and both see why."""
    breaker.trip("MANUAL")
    manager, operator = sign_in(Role.RISK_MANAGER), sign_in(Role.OPERATOR)
    manager.get_by_role("link", name="Reset Circuit Breaker").click()
    manager.get_by_label("Reason").fill("Market conditions normalized, resuming trading")
    manager.get_by_label("The cause is understood").check()
    operator.get_by_role("link", name="Trip Circuit Breaker").click()
    operator.get_by_label("Reason").fill("It happens again, look at the gateway")
    operator.get_by_label("I understand").check()
    operator.get_by_role("button", name="Confirm Trip").click()
    expect(operator.locator(".panel.state .word:visible")).to_have_text("TRIPPED")
    manager.get_by_role("button", name="Confirm Reset").click()
    expect(manager.get_by_role("alert")).to_contain_text("epoch")
    assert breaker.get_state() is State.TRIPPED


def test_the_kill_switch_to_the_end(sign_in: SignIn, breaker: CircuitBreaker, exchange: PaperExchangeThread) -> None:
    page = sign_in(Role.OPERATOR)
    watcher = sign_in(Role.VIEWER)
    page.get_by_role("link", name="Kill Switch …").click()
    expect(page.get_by_text("ALPHA: 6 positions")).to_be_visible()
    page.get_by_label("Reason").fill("Exchange reports fills that we never sent")
    page.get_by_label("I understand").check()
    page.get_by_role("button", name="Confirm Kill Switch").click()
    assert breaker.get_state() is State.OPEN, "the word has to be typed first"
    page.get_by_label("Type FLATTEN").fill("FLATTEN")
    page.get_by_role("button", name="Confirm Kill Switch").click()
    expect(page.locator("h1")).to_have_text("Kill Switch")
    assert breaker.get_state() is State.TRIPPED
    expect(page.locator(".panel.state .word:visible")).to_have_text("FLAT", timeout=40_000)
    expect(page.get_by_text("0 of 6")).to_be_visible()
    assert exchange.report()["is_flat"]
    expect(watcher.locator(".panel.state .word:visible")).to_have_text("TRIPPED")
    page.get_by_role("link", name="Audit log of this incident").click()
    expect(page.locator("code", has_text="KILL_SWITCH_FINISHED")).to_be_visible()


def test_the_audit_log_is_filtered(sign_in: SignIn, breaker: CircuitBreaker) -> None:
    page = sign_in(Role.OPERATOR)
    page.get_by_role("link", name="Audit Log").click()
    page.get_by_label("Action").fill("SIGNED_IN")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Verify the chain").click()
    expect(page.get_by_text("The chain is whole")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export all").click()
    assert re.fullmatch(r"audit-\d+T\d+Z\.zip", download.value.suggested_filename)


def test_nothing_is_refused_by_the_pages_own_policy(sign_in: SignIn, breaker: CircuitBreaker) -> None:
    """No page asks for what the Content-Security-Policy forbids, and none fails in the console."""
    breaker.trip("MANUAL")
    page = sign_in(Role.ADMIN)
    complaints: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    foreign: list[str] = []
    origin = "/".join(page.url.split("/")[:3])
    page.on("request", lambda request: None if request.url.startswith(origin) else foreign.append(request.url))
    for path in ("", "/trip", "/reset", "/kill"):
        page.goto(f"{origin}/circuit-breaker{path}")
    for path in ("/audit", "/system-health"):
        page.goto(origin + path)
    assert complaints == []
    assert foreign == []


def test_nothing_sticks_out_on_a_phone(sign_in: SignIn, breaker: CircuitBreaker) -> None:
    breaker.trip("MANUAL", details={"reason": "x" * 200, "a-rather-long-name": "y" * 100})
    page = sign_in(Role.ADMIN, viewport={"width": 390, "height": 800})
    origin = "/".join(page.url.split("/")[:3])
    for path in ("/circuit-breaker", "/circuit-breaker/reset", "/circuit-breaker/kill", "/audit", "/system-health"):
        page.goto(origin + path)
        page.wait_for_load_state("load")
        expect(page.locator("main")).to_be_visible()
        for width in (390, 360):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_the_state_can_be_read(sign_in: SignIn, breaker: CircuitBreaker) -> None:
    """Contrast of at least 4.5:1 (WCAG AA) between the state's word and what is behind it."""
    page = sign_in(Role.VIEWER)
    seen: set[tuple[str, str]] = set()
    for state in ("OPEN", "TRIPPED"):
        if state == "TRIPPED":
            breaker.trip("MANUAL")
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            page.reload()  # rather than wait for the end of how colours change
            expect(page.locator(".panel.state .word:visible")).to_have_text(state)
            expect(page.locator(".banner .badge:visible")).to_contain_text(state)
            for selector in (".panel.state .word", ".banner .badge"):
                # Found and measured in one go, as the server may replace the element at any moment.
                ink, paper = page.evaluate(
                    """(selector) => {
                        const all = [...document.querySelectorAll(selector)];
                        const shown = all.find((found) => found.offsetParent !== null);
                        let paper = shown;
                        while (getComputedStyle(paper).backgroundColor === "rgba(0, 0, 0, 0)")
                            paper = paper.parentElement;
                        return [getComputedStyle(shown).color, getComputedStyle(paper).backgroundColor];
                    }""",
                    selector,
                )
                seen.add((ink, paper))
                assert contrast(ink, paper) >= 4.5, (state, scheme, selector, ink, paper)
    assert len(seen) >= 4, "each state and each scheme has colours of its own"


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_everything_can_be_reached_by_keyboard(sign_in: SignIn, breaker: CircuitBreaker) -> None:
    page = sign_in(Role.OPERATOR)
    reached: list[str] = []
    deadline = time.monotonic() + 20
    while "Kill Switch …" not in reached and time.monotonic() < deadline:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim()"))
    assert "Skip to content" in reached and "Sign out" in reached and "Trip Circuit Breaker" in reached
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Kill Switch")).to_be_visible()
    expect(page.get_by_label("Reason")).to_be_focused()
