"""The report convicts a kill switch that does harm, and clears one that doesn't."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from sandbox.exchange.server import PaperExchange

Venue = Callable[..., PaperExchange]
LONG = '[prices]\nAAPL = 200\n[[positions]]\nsymbol = "AAPL"\nqty = 100\n'


def sell(http: httpx.Client, qty: int, **fields: object) -> httpx.Response:
    terms = {"symbol": "AAPL", "side": "sell", "type": "market", "time_in_force": "day", "qty": qty}
    return http.post("/v2/orders", json=terms | fields)


def test_a_flipping_order_is_named(venue: Venue, http: httpx.Client) -> None:
    exchange = venue("enforce_available = false\n" + LONG)
    sell(http, 150, client_order_id="too-much")
    report = exchange.report()
    assert report["violations"] == [
        "a close of 150 AAPL was larger than the position of 100",
        "AAPL turned from long to short (-50) by the order too-much",
    ]
    (change,) = report["sign_changes"]
    assert (change["symbol"], change["before"], change["after"], change["by"]) == ("AAPL", "100", "-50", "client")
    assert report["largest_close"] == {"symbol": "AAPL", "qty": "150", "position": "100"}


def test_two_closes_at_work_at_once_are_named(venue: Venue, http: httpx.Client) -> None:
    exchange = venue("enforce_available = false\n" + LONG + "[fills]\ndelay = 600\n")
    sell(http, 100)
    sell(http, 100)
    assert exchange.report()["violations"] == [
        "closes of AAPL at work at once, 100 and 100, exceeded the position of 100"
    ]
    assert exchange.report()["closes"] == {"AAPL": 2}


def test_a_position_turned_by_a_second_close_is_named_though_it_passed_through_zero(
    venue: Venue, http: httpx.Client
) -> None:
    exchange = venue("enforce_available = false\ntime_scale = 100\n" + LONG + "[fills]\ndelay = 30\n")
    sell(http, 100)
    sell(http, 100, client_order_id="second")
    deadline = time.monotonic() + 5
    while exchange.report()["open_orders"]:
        assert time.monotonic() < deadline
    report = exchange.report()
    assert report["positions"] == {"AAPL": "-100"}
    assert report["violations"][1:] == ["AAPL turned from long to short (-100) by the order second"]


def test_an_attempt_the_venue_refused_is_listed_without_being_a_violation(venue: Venue, http: httpx.Client) -> None:
    exchange = venue(LONG)
    assert sell(http, 150).status_code == 403
    report = exchange.report()
    assert report["closes_refused_as_too_large"] == [{"symbol": "AAPL", "qty": "150", "position": "100"}]
    assert report["violations"] == []
    assert report["closes"] == {}


def test_an_order_that_adds_to_a_position_is_no_close(venue: Venue, http: httpx.Client) -> None:
    exchange = venue(LONG)
    http.post(
        "/v2/orders", json={"symbol": "AAPL", "side": "buy", "type": "market", "time_in_force": "day", "qty": 300}
    )
    report = exchange.report()
    assert (report["closes"], report["largest_close"], report["violations"]) == ({}, None, [])


def test_what_could_be_closed_and_which_rules_were_broken(venue: Venue, http: httpx.Client) -> None:
    exchange = venue(LONG + '[[positions]]\nsymbol = "BTCUSD"\nqty = 2\n[market]\nsession = "closed"\n')
    assert sell(http, 1, symbol="BTCUSD").status_code == 422  # a day order
    report = exchange.report()
    assert report["closable"] == {"BTCUSD": "2"} and report["positions"] == {"AAPL": "100", "BTCUSD": "2"}
    assert report["rules_broken"] == {"time in force": 1}
    assert sell(http, 2, symbol="BTCUSD", time_in_force="gtc").status_code == 200
    assert exchange.report()["closes"] == {"BTCUSD": 1}


def test_the_moments_of_a_clean_stop_are_in_order(venue: Venue, http: httpx.Client) -> None:
    exchange = venue(LONG + '[[orders]]\nsymbol = "AAPL"\nside = "sell"\nqty = 40\nlimit_price = 300\n')
    assert exchange.report()["first_request_at"] is None
    http.delete("/v2/orders")
    assert http.get("/v2/orders").json() == []
    http.delete("/v2/positions/AAPL")
    report = exchange.report()
    moments = ["first_request_at", "first_cancel_all_at", "first_no_open_orders_at", "first_flat_at", "flat_at", "now"]
    assert [report[name] for name in moments] == sorted(report[name] for name in moments)
    assert report["is_flat"] is True
    assert report["requests"] == {"DELETE /v2/orders": 1, "GET /v2/orders": 1, "DELETE /v2/positions/{symbol}": 1}
    assert report["orders_created"] == {"client": 1, "book": 0, "strategy": 0, "venue": 0}
    assert report["violations"] == []


def test_flat_is_taken_back_when_a_late_fill_arrives(venue: Venue, http: httpx.Client) -> None:
    exchange = venue(LONG)
    http.delete("/v2/positions")
    assert exchange.report()["flat_at"] is not None
    exchange.control("late-fill", {"symbol": "AAPL", "side": "buy", "qty": 1})
    report = exchange.report()
    assert (report["is_flat"], report["flat_at"], report["times_flat"]) == (False, None, 1)
    assert report["first_flat_at"] is not None
    assert report["fills"]["venue"] == 1


def test_a_position_that_lost_its_stop_is_timed_until_a_close_works_for_all_of_it(
    venue: Venue, http: httpx.Client
) -> None:
    stop = '[[orders]]\nsymbol = "AAPL"\nside = "sell"\nqty = 100\ntype = "stop"\nstop_price = 1\n'
    exchange = venue(LONG + stop + "[fills]\ndelay = 600\n")
    assert exchange.report()["unprotected"] == []
    http.delete("/v2/orders")
    (going_on,) = exchange.report()["unprotected"]
    assert going_on["symbol"] == "AAPL" and going_on["to"] is None
    sell(http, 60)
    assert exchange.report()["unprotected"][0]["to"] is None, "40 of it have neither"
    sell(http, 40)
    (gap,) = exchange.report()["unprotected"]
    assert gap["from"] == going_on["from"] < gap["to"] <= exchange.report()["now"]
