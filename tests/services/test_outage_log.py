"""An outage is logged at its beginning and its end, whatever words its error has."""

from __future__ import annotations

from structlog.testing import capture_logs

from services.outage_log import OutageLog


def test_an_outage_is_said_once_and_its_end_once_and_an_error_without_words_by_its_kind() -> None:
    outages = OutageLog("trip watch")
    with capture_logs() as said:
        for error in (TimeoutError(), OSError("no route"), None, None, OSError("no route")):
            outages.note("recoveries", error)
    assert [(line["event"], line.get("error")) for line in said] == [
        ("trip watch in trouble", "TimeoutError"),
        ("trip watch well again", None),
        ("trip watch in trouble", "no route"),
    ]
