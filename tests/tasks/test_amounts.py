"""Amounts are written as people read them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tasks.amounts import figure, grouped


@pytest.mark.parametrize(
    ("value", "currency", "written"),
    [
        ("10083333.156599990760", "USDT", "10083333.16"),
        ("10083333.156599990760", "", "10083333.16"),
        ("100000", "USD", "100000"),
        ("100000.5", "usd", "100000.5"),
        ("0.123456789012", "BTC", "0.12345679"),
        ("0.000123456789012", "BTC", "0.00012345679"),
        ("12345.678901234", "ETH", "12345.679"),
        ("123456789012.5", "SHIB", "123456789012"),
        ("0", "BTC", "0"),
        ("1E+2", "EUR", "100"),
        ("123456789012345678901234567890.123", "USD", "123456789012345678901234567890.123"),
    ],
)
def test_an_amount_has_two_decimals_at_most_or_eight_digits_in_a_coin(value: str, currency: str, written: str) -> None:
    assert figure(Decimal(value), currency) == written


@pytest.mark.parametrize(
    ("value", "currency", "written"),
    [
        ("1234567.891", "USD", "1,234,567.89 USD"),
        ("-0.001", "USD", "0.00 USD"),
        ("5", "", "5.00"),
        ("-0.00123456789", "BTC", "-0.0012345679 BTC"),
        ("1234.5", "BTC", "1,234.5 BTC"),
    ],
)
def test_to_read_thousands_stand_apart(value: str, currency: str, written: str) -> None:
    assert grouped(Decimal(value), currency) == written
