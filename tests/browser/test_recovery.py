"""A recovery walked on its page by two people while a third one looks on: as it is served, and without JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from playwright.sync_api import Page, expect

from breaker import CircuitBreaker, State
from console.auth.permissions import Role
from tests.browser.conftest import SignIn
from tests.console.suspended_run import SuspendedRun, finished, waiting_for

expect.set_options(timeout=15_000)


@pytest.fixture
def recovery(breaker: CircuitBreaker, redis_client: redis.Redis) -> Iterator[SuspendedRun]:
    """Of a breaker that ada has tripped. It goes on to its next step when it is answered."""
    incident = str(breaker.trip("MANUAL", tripped_by="ada", details={"reason": "quotes look frozen"}).incident_id)
    state = waiting_for(redis_client, "root-cause", incident)

    def goes_on(answer: dict[str, Any]) -> None:
        if "root_cause" in answer:
            waiting_for(redis_client, "approval", incident, author=answer["author"])
        else:
            breaker.reset(reset_by=answer["approver"], reason=answer["reason"])
            finished(redis_client, state)

    with SuspendedRun(goes_on) as run:
        yield run


def headline(page: Page) -> Any:
    return page.locator(".panel.state .word:visible")


@pytest.mark.parametrize("javascript", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_two_people_walk_a_recovery(
    sign_in: SignIn, recovery: SuspendedRun, breaker: CircuitBreaker, javascript: bool
) -> None:
    manager = sign_in(Role.RISK_MANAGER, java_script_enabled=javascript)
    admin = sign_in(Role.ADMIN, java_script_enabled=javascript)
    viewer = sign_in(Role.VIEWER)
    for page in (viewer, manager, admin):
        page.get_by_role("link", name="Recovery", exact=True).click()
        expect(headline(page)).to_have_text("ROOT CAUSE NEEDED")

    manager.get_by_role("link", name="Answer what it waits for …").click()
    manager.get_by_label("Category").select_option("data")
    manager.get_by_label("Root cause: what happened").fill("The quote feed went stale after its failover")
    manager.get_by_label("Corrective action").fill("Feed pinned to its primary, alarm added on its age")
    manager.get_by_role("button", name="Sign the Root Cause").click()
    expect(manager.get_by_role("status").filter(has_text="Answered")).to_be_visible()
    expect(headline(viewer)).to_have_text("APPROVAL NEEDED")
    expect(viewer.locator(".ticks li", has_text="Drawdown within limits")).to_contain_text("green")

    # Whoever wrote the root cause is told, and held to it.
    approve(manager)
    expect(manager.get_by_role("alert")).to_contain_text("the_risk_manager wrote the root cause")
    assert breaker.get_state() is State.TRIPPED

    approve(admin)
    expect(headline(viewer)).to_have_text("RECOVERED")
    expect(viewer.get_by_role("link", name="Answer what it waits for …")).to_be_hidden()
    assert breaker.get_state() is State.QUIET_PERIOD
    assert [answer.get("author", answer.get("approver")) for answer in recovery.answers] == [
        "the_risk_manager",
        "the_admin",
    ]


def approve(page: Page) -> None:
    page.goto("/".join([*page.url.split("/")[:3], "recovery", "answer"]))
    page.get_by_label("Reason").fill("Feed pinned, data checked, book is flat")
    page.get_by_label("I understand the cause").check()
    page.get_by_label("Override").fill("The orders that are working are the desk's own")
    page.get_by_role("button", name="Approve the Reset").click()


def test_on_a_phone_nothing_sticks_out_and_no_policy_is_broken(sign_in: SignIn, recovery: SuspendedRun) -> None:
    page = sign_in(Role.ADMIN, viewport={"width": 360, "height": 800})
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    origin = "/".join(page.url.split("/")[:3])
    for path in ("/recovery", "/recovery/answer"):
        page.goto(origin + path)
        expect(page.locator("main")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    assert complaints == []
