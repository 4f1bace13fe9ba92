"""Write amounts of money as people read them: to the cent, and in coins by the digits that matter. Pure."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

_CENT = Decimal("0.01")
_DIGITS = 8
"""Significant ones, where a unit may be worth anything."""
_LARGEST = 18
"""Digits before the point, beyond which nothing is rounded: decimals have no room there."""
_TO_THE_CENT = frozenset(
    {
        *("USD", "EUR", "GBP", "CHF", "AUD", "CAD", "NZD", "SGD", "HKD", "JPY", "CNH", "CNY", "SEK", "NOK", "DKK"),
        *("PLN", "CZK", "TRY", "BRL", "MXN", "ZAR", "INR", "KRW"),
        *("USDT", "USDC", "FDUSD", "TUSD", "USDE", "DAI", "BUSD", "PYUSD", "EURC", "EURT", "ZUSD", "ZEUR"),
    }
)
"""Currencies of states, and coins that stand for one."""


def rounded(value: Decimal, currency: str = "") -> Decimal:
    """To two decimals at most in a state's currency or one that isn't told, else to eight significant digits.

    No digit before the point is lost. What has fewer decimals is left as it is.
    """
    if not value or value.adjusted() > _LARGEST:
        return value
    places = 2 if is_to_the_cent(currency) else max(_DIGITS - 1 - value.adjusted(), 0)
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or -exponent <= places:
        return value
    return value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)


def is_to_the_cent(currency: str) -> bool:
    """Whether its hundredths are the least that matters; of a currency that isn't told they are."""
    return not currency or currency.upper() in _TO_THE_CENT


def figure(value: Decimal, currency: str = "") -> str:
    """Without the currency, and without a separator of thousands, so that it can be typed again."""
    return f"{rounded(value, currency):f}"


def grouped(value: Decimal, currency: str = "") -> str:
    """With the currency, to read: thousands apart, and two decimals always where it is to the cent."""
    short = rounded(value, currency)
    to_the_cent = is_to_the_cent(currency) and abs(short.adjusted()) <= _LARGEST
    return f"{short.quantize(_CENT, ROUND_HALF_EVEN) + 0 if to_the_cent else short + 0:,f} {currency}".strip()
