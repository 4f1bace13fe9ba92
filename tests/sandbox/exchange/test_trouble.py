"""Each kind of trouble really happens on the wire."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import httpx
import pytest

from sandbox.exchange.server import PaperExchange
from tests.helpers import eventually
from tests.sandbox.exchange.conftest import KEYS

Venue = Callable[..., PaperExchange]
LONG = '[prices]\nAAPL = 200\n[[positions]]\nsymbol = "AAPL"\nqty = 100\n'
BUY = {"symbol": "AAPL", "side": "buy", "type": "market", "time_in_force": "day", "qty": "5", "client_order_id": "mine"}


def trouble(kind: str, **more: object) -> str:
    rules = "".join(
        f"{key} = {str(value).lower() if isinstance(value, bool) else value}\n" for key, value in more.items()
    )
    return f'{LONG}[[trouble]]\nkind = "{kind}"\n{rules}'


def test_a_dropped_connection_is_an_error_and_changes_nothing(venue: Venue, http: httpx.Client) -> None:
    exchange = venue(trouble("drop", routes=["POST /v2/orders"], first=1))
    with pytest.raises(httpx.TransportError):
        http.post("/v2/orders", json=BUY)
    assert http.get("/v2/orders:by_client_order_id", params={"client_order_id": "mine"}).status_code == 404
    assert http.post("/v2/orders", json=BUY).status_code == 200
    assert exchange.report()["trouble"] == {"drop": 1}


def test_a_lost_response_has_its_effect(venue: Venue, http: httpx.Client) -> None:
    exchange = venue(trouble("drop", applied=True, routes=["POST /v2/orders"], first=1))
    with pytest.raises(httpx.TransportError):
        http.post("/v2/orders", json=BUY)
    found = http.get("/v2/orders:by_client_order_id", params={"client_order_id": "mine"}).json()
    assert (found["status"], found["filled_qty"]) == ("filled", "5")
    assert exchange.report()["positions"] == {"AAPL": "105"}


def test_an_error_may_hide_an_effect_too(venue: Venue, http: httpx.Client) -> None:
    exchange = venue(trouble("504", applied=True, routes=["DELETE /v2/positions"], first=1))
    assert http.delete("/v2/positions").status_code == 504
    assert exchange.report()["positions"] == {}


def test_a_timeout_says_nothing(venue: Venue, http: httpx.Client) -> None:
    exchange = venue(trouble("timeout", routes=["DELETE /v2/orders/{id}", "DELETE /v2/orders"], first=1))
    with pytest.raises(httpx.ReadTimeout):
        http.delete("/v2/orders", timeout=0.2)
    assert http.delete("/v2/orders").status_code == 207
    assert exchange.report()["trouble"] == {"timeout": 1}


@pytest.mark.parametrize("status", ["401", "403", "429", "500", "502", "503", "504"])
def test_errors_come_as_often_as_told(venue: Venue, http: httpx.Client, status: str) -> None:
    exchange = venue(trouble(status, first=2))
    codes = [http.get("/v2/positions").status_code for _ in range(3)]
    assert codes == [int(status), int(status), 200]
    assert exchange.report()["responses"] == {status: 2, "200": 1}


def test_trouble_keeps_to_its_window_and_probability(venue: Venue, http: httpx.Client) -> None:
    venue("time_scale = 1000\nrate_limit = 100000\n" + trouble("500", after=60, until=1e9, probability=0.5))
    assert http.get("/v2/clock").status_code == 200
    deadline = time.monotonic() + 5
    while http.get("/v2/clock").status_code == 200:
        assert time.monotonic() < deadline
    codes = [http.get("/v2/clock").status_code for _ in range(60)]
    assert 10 < codes.count(500) < 50


def test_the_same_seed_makes_the_same_trouble(venue: Venue, http: httpx.Client) -> None:
    def codes(seed: int) -> list[int]:
        venue(f"seed = {seed}\n" + trouble("503", probability=0.5))
        return [http.get("/v2/clock").status_code for _ in range(30)]

    assert codes(1) == codes(1) != codes(2)


def test_the_rate_limit_counts_down_refuses_and_recovers(venue: Venue, http: httpx.Client) -> None:
    venue("rate_limit = 3\ntime_scale = 60\n")
    answers = [http.get("/v2/clock") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["X-Ratelimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert {answer.headers["X-Ratelimit-Limit"] for answer in answers} == {"3"}
    assert answers[-1].json() == {"code": 42910000, "message": "rate limit exceeded"}
    resets_at = int(answers[-1].headers["X-Ratelimit-Reset"])
    assert time.time() <= resets_at <= time.time() + 2.1
    eventually(lambda: http.get("/v2/clock").status_code != 429, every=0.02)


def test_latency_is_felt(venue: Venue, http: httpx.Client) -> None:
    venue("latency_ms = 80\n")
    started = time.monotonic()
    http.get("/v2/clock")
    assert time.monotonic() - started >= 0.08


def test_a_client_that_dies_within_its_request_has_asked_for_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with PaperExchange() as venue:
        with socket.create_connection(("127.0.0.1", int(venue.url.rpartition(":")[2]))) as client:
            keys = "".join(f"{name}: {value}\r\n" for name, value in KEYS.items())
            client.sendall(f"POST /v2/orders HTTP/1.1\r\nHost: venue\r\n{keys}Content-Length: 80\r\n\r\n".encode())
        eventually(lambda: venue.report()["responses"])
        assert venue.report()["orders_created"]["client"] == 0
    assert "Traceback" not in capfd.readouterr().err


def test_a_client_that_gives_up_early_has_asked_all_the_same(venue: Venue, http: httpx.Client) -> None:
    exchange = venue("latency_ms = 300\n" + LONG)
    with pytest.raises(httpx.ReadTimeout):
        http.delete("/v2/positions", timeout=0.05)
    eventually(lambda: not exchange.report()["positions"], every=0.02)


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        ({}, 422, 40010001, "symbol is required"),
        ({**BUY, "qty": None}, 422, 40010001, "qty or notional is required"),
        ({**BUY, "notional": 10}, 422, 40010001, "only one of qty or notional is accepted"),
        ({**BUY, "qty": "-1"}, 422, 40010001, "qty must be > 0"),
        ({**BUY, "qty": "many"}, 422, 40010001, "qty is invalid"),
        ({**BUY, "side": "up"}, 422, 40010001, "invalid side"),
        ({**BUY, "type": "limit"}, 422, 42210000, "limit orders require limit price"),
        ({**BUY, "client_order_id": "x" * 129}, 422, 40010001, "client_order_id must be no more than 128 characters"),
        ({**BUY, "symbol": "NOPE"}, 422, 42210000, 'asset "NOPE" not found'),
    ],
)
def test_bad_orders_are_refused_in_alpacas_words(
    venue: Venue, http: httpx.Client, body: dict[str, object], status: int, code: int, message: str
) -> None:
    venue(LONG)
    answer = http.post("/v2/orders", json=body)
    assert (answer.status_code, answer.json()) == (status, {"code": code, "message": message})


def test_a_body_that_is_not_json_and_a_page_that_is_too_large(venue: Venue, http: httpx.Client) -> None:
    venue()
    assert http.post("/v2/orders", content=b"{").status_code == 400
    assert http.get("/v2/orders", params={"limit": 501}).status_code == 422
    assert http.get("/v2/orders", params={"after": "yesterday"}).status_code == 422


def test_keys_may_be_refused_now_and_then_though_they_are_good(venue: Venue, http: httpx.Client) -> None:
    venue(trouble("401", routes=["GET *"], first=1))
    refused = http.get("/v2/positions")
    assert (refused.status_code, refused.json()["code"]) == (401, 40110000)
    assert http.get("/v2/positions").status_code == 200


def test_a_bulk_cancel_may_fail_for_some_that_can_be_cancelled_one_by_one(venue: Venue, http: httpx.Client) -> None:
    venue("[cancels]\nbulk_leaves = 6\n[book]\norders = 10\n")
    statuses = [item["status"] for item in http.delete("/v2/orders").json()]
    assert sorted(statuses) == [200] * 4 + [500] * 6
    left = http.get("/v2/orders").json()
    assert len(left) == 6
    assert {http.delete(f"/v2/orders/{order['id']}").status_code for order in left} == {204}
    assert http.get("/v2/orders").json() == []


def test_items_that_nobody_can_read(venue: Venue, http: httpx.Client) -> None:
    exchange = venue(
        """
positions = [{ symbol = "AAPL", qty = 10, unreadable = true }, { symbol = "MSFT", qty = 10 }]
[[orders]]
symbol = "MSFT"
side = "sell"
qty = 1
limit_price = 300
unreadable = true
[[orders]]
symbol = "TSLA"
side = "sell"
side_word = "sell_short"
qty = 1
limit_price = 300
"""
    )
    positions = {position["symbol"]: position["qty_available"] for position in http.get("/v2/positions").json()}
    assert positions == {"AAPL": "", "MSFT": "9"}
    orders = {order["symbol"]: (order["limit_price"], order["side"]) for order in http.get("/v2/orders").json()}
    assert orders == {"MSFT": ("", "sell"), "TSLA": ("300", "sell_short")}
    for path in ("/v2/orders", "/v2/positions"):
        http.delete(path)
    assert exchange.report()["is_flat"]


def test_trouble_can_be_added_and_ended_at_run_time(venue: Venue, http: httpx.Client) -> None:
    exchange = venue()
    exchange.control("trouble", {"kind": "503", "routes": ["GET /v2/clock"]})
    assert http.get("/v2/clock").status_code == 503
    assert http.get("/v2/account").status_code == 200
    exchange.control("trouble", method="DELETE")
    assert http.get("/v2/clock").status_code == 200


def test_halts_strategies_late_fills_and_fast_markets_on_demand(venue: Venue, http: httpx.Client) -> None:
    exchange = venue(LONG)
    exchange.control("halt", {"symbol": "AAPL"})
    refused = http.delete("/v2/positions/AAPL")
    assert (refused.status_code, refused.json()["message"]) == (422, 'asset "AAPL" is not tradable: trading is halted')
    exchange.control("resume", {"symbol": "AAPL"})
    assert http.delete("/v2/positions/AAPL").status_code == 200
    assert exchange.report()["is_flat"]

    exchange.control("strategy-order", {"symbol": "MSFT", "side": "buy", "qty": 3, "limit_price": 1, "delay": 0})
    for _ in range(4):
        assert exchange.report()["open_orders"] == 1
        http.delete("/v2/orders")
    assert exchange.report()["open_orders"] == 0

    exchange.control("late-fill", {"symbol": "MSFT", "side": "sell", "qty": 2})
    assert exchange.report()["positions"] == {"MSFT": "-2"}

    exchange = venue("[book]\nbrackets = 1\n")
    exchange.control("fast-market")
    (change,) = exchange.report()["sign_changes"]
    assert change["by"] == "book"
