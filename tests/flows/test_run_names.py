"""What people see of runs in the orchestrator: names that say when, and no error where a person is waited for."""

from __future__ import annotations

import logging
import re

import pytest

from flows.health_verification import health_verification
from flows.run_names import log_pauses_as_information, run_name


def test_a_name_says_what_and_when() -> None:
    assert re.fullmatch(r"drill 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", run_name("drill")())
    assert callable(health_verification.flow_run_name)


def test_waiting_for_a_person_is_no_error_and_what_is_one_stays_one(caplog: pytest.LogCaptureFixture) -> None:
    log_pauses_as_information()
    log_pauses_as_information()
    logger = logging.getLogger("prefect.flow_runs")
    logger.addHandler(caplog.handler)
    try:
        logger.error("Finished in state Suspended(message=None, type=PAUSED)")
        logger.error("Finished in state Failed()")
    finally:
        logger.removeHandler(caplog.handler)
    said = {record.getMessage(): record.levelname for record in caplog.records}
    assert list(said.values()) == ["INFO", "ERROR"], said
