"""What a failure means that hides in an answer which is itself none."""

from __future__ import annotations

from typing import Any

import pytest

from brokers.ccxt.reading import failure_in
from brokers.ccxt.refusals import failed_item
from brokers.protocol import CancelOutcome


@pytest.mark.parametrize(
    ("body", "failure", "outcome"),
    [
        (
            {"id": "1", "status": "500", "info": {"message": "order is pending replace"}},
            "pending",
            CancelOutcome.REFUSED,
        ),
        (
            {"status": "rejected", "info": {"code": -2011, "msg": "Unknown order sent."}},
            "-2011",
            CancelOutcome.NOT_OPEN,
        ),
        ({"id": "1", "info": {"sCode": "51402", "sMsg": "Cancellation failed"}}, "51402", CancelOutcome.NOT_OPEN),
        (
            {"id": "1", "info": {"errorCode": "45110", "errorMsg": "less than the minimum"}},
            "45110",
            CancelOutcome.REFUSED,
        ),
        (
            {"status": {}, "info": {"error": "Order was never placed, already canceled"}},
            "already",
            CancelOutcome.NOT_OPEN,
        ),
        ({"status": "rejected", "info": {}}, "rejected", CancelOutcome.REFUSED),
    ],
)
def test_a_failed_item_is_a_failure(body: Any, failure: str, outcome: CancelOutcome) -> None:
    told = failure_in(body)
    assert failure in told
    assert failed_item("1@BTC/USDT", told).outcome is outcome


@pytest.mark.parametrize(
    "body",
    [
        {"id": "1", "status": "canceled", "info": {"code": "200", "msg": "success"}},
        {"id": "1", "status": "200", "info": {}},
        {"id": "1", "info": {"sCode": "0", "sMsg": ""}},
        {"id": "1", "info": {"code": "00000", "msg": "success"}},
        {"id": "1", "status": "success", "info": "success"},
        None,
    ],
)
def test_and_a_normal_one_is_none(body: Any) -> None:
    assert failure_in(body) == ""
