"""Say no in Binance's words: `{"code": -2011, "msg": "Unknown order sent."}` with an HTTP status.

Codes and messages are those of Binance's own lists ("Error Codes" of the spot API and of USDⓈ-M futures) and of the
answers that people have reported of it; where the two APIs differ, the function says so.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from sandbox.exchange.refusal import Refusal


class BinanceRefusal(Refusal):
    """The venue says no; `rule` names the filter that an order broke."""

    def __init__(self, code: int, message: str, status: int = 400, *, rule: str = "") -> None:
        super().__init__(status, code, message, rule=rule)
        self.code = code
        self.message = message
        self.body = {"code": code, "msg": message}


# Requests


def bad_key_format() -> BinanceRefusal:
    return BinanceRefusal(-2014, "API-key format invalid.", 401)


def bad_key() -> BinanceRefusal:
    return BinanceRefusal(-2015, "Invalid API-key, IP, or permissions for action.", 401)


def bad_signature() -> BinanceRefusal:
    return BinanceRefusal(-1022, "Signature for this request is not valid.")


def too_late() -> BinanceRefusal:
    return BinanceRefusal(-1021, "Timestamp for this request is outside of the recvWindow.")


def too_early() -> BinanceRefusal:
    return BinanceRefusal(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")


def missing(name: str) -> BinanceRefusal:
    return BinanceRefusal(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")


def one_is_needed(first: str, second: str) -> BinanceRefusal:
    return BinanceRefusal(-1102, f"Param '{first}' or '{second}' must be sent, but both were empty/null!")


def not_required(name: str) -> BinanceRefusal:
    return BinanceRefusal(-1106, f"Parameter '{name}' sent when not required.")


def illegal_characters(name: str, pattern: str) -> BinanceRefusal:
    return BinanceRefusal(-1100, f"Illegal characters found in parameter '{name}'; legal range is '{pattern}'.")


def invalid_parameter(name: str) -> BinanceRefusal:
    return BinanceRefusal(-1130, f"Data sent for parameter '{name}' is not valid.")


def invalid_symbol() -> BinanceRefusal:
    return BinanceRefusal(-1121, "Invalid symbol.", rule="symbol")


def invalid_order_type() -> BinanceRefusal:
    return BinanceRefusal(-1116, "Invalid orderType.", rule="kind of order")


def invalid_side() -> BinanceRefusal:
    return BinanceRefusal(-1117, "Invalid side.", rule="side")


def invalid_time_in_force() -> BinanceRefusal:
    return BinanceRefusal(-1115, "Invalid timeInForce.", rule="time in force")


def too_many_orders(limit: int) -> BinanceRefusal:
    """New orders are counted by themselves, also those that are refused."""
    message = f"Too many new orders; current limit is {limit} orders per 10 SECOND."
    return BinanceRefusal(-1015, message, 429)


# Orders


def unknown_order() -> BinanceRefusal:
    """Of a cancel: there is no such open order."""
    return BinanceRefusal(-2011, "Unknown order sent.")


def no_such_order() -> BinanceRefusal:
    """Of a query."""
    return BinanceRefusal(-2013, "Order does not exist.")


def spot_too_precise(name: str) -> BinanceRefusal:
    """Of the spot API: more decimals than any asset has."""
    return BinanceRefusal(-1111, f"Parameter '{name}' has too much precision.", rule="quantity step")


def too_precise() -> BinanceRefusal:
    """Of the futures API: more decimals than `exchangeInfo` has for the symbol."""
    return BinanceRefusal(-1111, "Precision is over the maximum defined for this asset.", rule="quantity step")


def filter_failure(name: str) -> BinanceRefusal:
    """Of the spot API: an order that a filter of `exchangeInfo` stops."""
    return BinanceRefusal(-1013, f"Filter failure: {name}", rule=name)


def insufficient_balance() -> BinanceRefusal:
    """Of the spot API."""
    return BinanceRefusal(-2010, "Account has insufficient balance for requested action.")


def duplicate_order() -> BinanceRefusal:
    """Of the spot API: an open order has this client order id."""
    return BinanceRefusal(-2010, "Duplicate order sent.")


def market_closed() -> BinanceRefusal:
    """Of the spot API."""
    return BinanceRefusal(-1013, "Market is closed.")


def would_take() -> BinanceRefusal:
    """Of the spot API, to an order that is to be a maker's."""
    return BinanceRefusal(-2010, "Order would immediately match and take.")


def would_not_rest() -> BinanceRefusal:
    """Of the futures API, to an order that is to be a maker's (`GTX`)."""
    message = "Due to the order could not be executed as maker, the Post Only order will be rejected."
    return BinanceRefusal(-5022, message)


def no_orders_now() -> BinanceRefusal:
    """Of the futures API, to an account that is blocked."""
    return BinanceRefusal(-4088, "User can not place order currently.")


def account_disabled() -> BinanceRefusal:
    """Of the spot API, to an account that is blocked."""
    return BinanceRefusal(-2010, "This action is disabled on this account.")


def stop_would_trigger() -> BinanceRefusal:
    """Of the spot API."""
    return BinanceRefusal(-2010, "Stop price would trigger immediately.")


def would_trigger() -> BinanceRefusal:
    """Of the futures API, to a conditional order whose price is reached already."""
    return BinanceRefusal(-2021, "Order would immediately trigger.")


def margin_insufficient() -> BinanceRefusal:
    return BinanceRefusal(-2019, "Margin is insufficient.")


def reduce_only_rejected() -> BinanceRefusal:
    """Of the futures API: there is nothing to reduce, or in hedge mode more than there is."""
    return BinanceRefusal(-2022, "ReduceOnly Order is rejected.")


def reduce_only_failed() -> BinanceRefusal:
    """Of the futures API: with the open orders of the same side it would be for more than the position."""
    return BinanceRefusal(-4118, "ReduceOnly Order Failed. Please check your existing position and open orders")


def duplicate_client_order_id() -> BinanceRefusal:
    """Of the futures API: an open order has it."""
    return BinanceRefusal(-4116, "ClientOrderId is duplicated.")


def below_minimum_notional(least: Decimal) -> BinanceRefusal:
    """Of the futures API."""
    message = f"Order's notional must be no smaller than {least:f} (unless you choose reduce only)."
    return BinanceRefusal(-4164, message, rule="minimum")


def position_side_mismatch() -> BinanceRefusal:
    return BinanceRefusal(-4061, "Order's position side does not match user's setting.", rule="position side")


def no_quantity() -> BinanceRefusal:
    """Of the futures API."""
    return BinanceRefusal(-4003, "Quantity less than or equal to zero.", rule="minimum")


def below_minimum_quantity() -> BinanceRefusal:
    """Of the futures API."""
    return BinanceRefusal(-4004, "Quantity less than min quantity.", rule="minimum")


def above_maximum_quantity() -> BinanceRefusal:
    """Of the futures API."""
    return BinanceRefusal(-4005, "Quantity greater than max quantity.", rule="maximum")


def off_the_tick() -> BinanceRefusal:
    """Of the futures API."""
    return BinanceRefusal(-4014, "Price not increased by tick size.", rule="price step")


def symbol_closed() -> BinanceRefusal:
    """Of the futures API."""
    return BinanceRefusal(-4141, "Symbol is closed.")


def price_band() -> BinanceRefusal:
    """Of the futures API, to a market order in a thin book."""
    return BinanceRefusal(-4131, "The counterparty's best price does not meet the PERCENT_PRICE filter limit.")


def belongs_to_algo_api() -> BinanceRefusal:
    """Of the futures API, to a conditional order at the endpoint for ordinary ones (since 2025-12-09)."""
    message = "Order type not supported for this endpoint. Please use the Algo Order API endpoints instead."
    return BinanceRefusal(-4120, message, rule="kind of order")


LEGAL_CLIENT_ORDER_ID: Final = r"^[\.A-Z\:/a-z0-9_-]{1,36}$"
