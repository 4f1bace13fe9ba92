"""The checklist is the runbook's, and its picture survives being kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.recovery.checklist import CHECKLIST, ITEMS
from tasks.recovery.state import ItemState, RecoveryState, Tick

STATE = RecoveryState(incident_id="0197-i", scope="global", flow_run_id="f")


def test_it_has_the_runbooks_five_sections_and_every_box() -> None:
    assert [section.title for section in CHECKLIST] == [
        "Identify Root Cause",
        "Verify Conditions Normalized",
        "System Health Check",
        "Pre-Reset Actions",
        "Reset and Verify",
    ]
    assert [len(section.items) for section in CHECKLIST] == [3, 5, 3, 3, 4]
    assert len(ITEMS) == 18


def test_the_picture_survives_being_kept() -> None:
    state = replace(STATE, waiting_for="approval", artifacts={"progress": "p"}).with_item(
        "redis", ItemState(Tick.RED, "2026-01-01T00:00:00+00:00", "", "900 ms")
    )
    assert RecoveryState.from_json(state.to_json()) == state


def test_an_unknown_item_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError, match="no item"):
        STATE.with_item("nonsense", ItemState())


def test_as_markdown_it_says_what_is_ticked_by_whom_and_what_is_red() -> None:
    state = STATE.with_item("logs", ItemState(Tick.GREEN, "2026-01-01T10:00:00", "ada", "read")).with_item(
        "redis", ItemState(Tick.RED, "2026-01-01T10:00:00", "", "900 ms")
    )
    text = replace(state, waiting_for="approval", waiting_since="2026-01-01T10:00:00").as_markdown()
    assert "- [x] Review logs: `docker logs execution_gateway` — 2026-01-01T10:00:00 UTC by ada" in text
    assert "- [ ] Redis connectivity healthy **red**" in text
    assert "Waiting since 2026-01-01T10:00:00 UTC for a person: **approval**" in text
    assert 0 < state.share_done < 0.1
