"""Every page by keyboard, and as axe-core judges it: names, roles, contrast, in dark and light and on a phone.

axe-core is a tool of development that nothing here depends on: `BREAKER_AXE` names its
`axe.min.js` (`npm pack axe-core`).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import redis
from playwright.sync_api import Page, expect

from breaker import CircuitBreaker
from console.auth.permissions import Role
from tests.browser.conftest import SignIn
from tests.console.harness import Console, lose_a_gate
from tests.console.suspended_run import SuspendedRun, waiting_for

PATHS = (
    "/circuit-breaker",
    "/circuit-breaker/trip",
    "/circuit-breaker/reset",
    "/circuit-breaker/kill",
    "/recovery",
    "/recovery/answer",
    "/audit",
    "/system-health",
)
AXE = os.environ.get("BREAKER_AXE")
LOOKS: dict[str, dict[str, object]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "dark", "viewport": {"width": 390, "height": 780}},
}


@pytest.mark.skipif(AXE is None, reason="BREAKER_AXE names no axe.min.js (npm pack axe-core)")
@pytest.mark.parametrize("state", ["OPEN", "TRIPPED", "QUIET_PERIOD", "UNKNOWN"])
@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing(
    console: Console, breaker: CircuitBreaker, redis_client: redis.Redis, sign_in: SignIn, look: str, state: str
) -> None:
    page = sign_in(Role.ADMIN, **LOOKS[look])
    lose_a_gate(redis_client)
    breaker.trip("MANUAL", details={"operator": "ada", "reason": "Unusual volatility"})
    with SuspendedRun():
        waiting_for(redis_client, "approval", str(breaker.get_status().incident_id))
        if state in ("QUIET_PERIOD", "OPEN"):
            breaker.reset(reset_by="grace")
        if state == "OPEN":
            breaker.end_quiet_period(expected_epoch=breaker.get_status().epoch or 0)
        if state == "UNKNOWN":
            redis_client.delete("circuit_breaker:state")
        found = {path: problems(page, console.url + path) for path in PATHS}
    assert {path: problem for path, problem in found.items() if problem} == {}


def problems(page: Page, url: str) -> list[str]:
    """What axe-core finds wrong there, one line each."""
    page.goto(url)
    page.locator("body[data-connection=live], body:not([data-topics])").wait_for()
    page.get_by_text("Being measured").or_(page.get_by_text("being asked")).last.wait_for(state="detached")
    page.evaluate(Path(str(AXE)).read_text())
    violations = page.evaluate("axe.run().then((found) => found.violations)")
    return [
        f"{v['id']}: {node['html'][:160]} {node['failureSummary'][:200]}" for v in violations for node in v["nodes"]
    ]


def test_every_control_is_reached_by_tab_in_its_order_and_shows_the_focus(console: Console, sign_in: SignIn) -> None:
    page = sign_in(Role.ADMIN)
    page.goto(f"{console.url}/circuit-breaker")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Trip Circuit Breaker")).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outline")
    assert "solid 3px" in outline
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Kill Switch")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Reason")).to_be_focused()
    order = [page.get_by_label("I understand"), page.get_by_label("Type FLATTEN")]
    for control in [
        *order,
        page.get_by_role("button", name="Confirm Kill Switch"),
        page.get_by_role("link", name="Cancel"),
    ]:
        page.keyboard.press("Tab")
        expect(control).to_be_focused()
