"""Write the configuration of accounts at paper exchanges: each a section of breaker.toml, from its heading on."""

from __future__ import annotations

from typing import Final

KEPT: Final = ("USDT", "USDC")
"""What a spot wallet keeps."""
_KEYS: Final = 'key_id = "key"\nsecret_key = "secret"\n'


def alpaca_section(name: str, url: str) -> str:
    """Of an exchange that is Alpaca."""
    return f'[accounts.{name}]\nbase_url = "{url}"\n{_KEYS}'


def spot_section(name: str, url: str) -> str:
    """Of one that is Binance's spot wallet."""
    keep = ", ".join(f'"{currency}"' for currency in KEPT)
    return _binance_section(name, url, "binance", "spot") + f"keep = [{keep}]\n"


def perpetuals_section(name: str, url: str) -> str:
    """Of one that is Binance's USDⓈ-M futures."""
    return _binance_section(name, url, "binanceusdm", "swap")


def ib_section(name: str, port: int) -> str:
    """Of one whose TWS is at this port."""
    return f'[accounts.{name}]\nadapter = "ib"\nport = {port}\n'


def _binance_section(name: str, url: str, ccxts_name: str, market: str) -> str:
    which = f'adapter = "ccxt"\nexchange = "{ccxts_name}"\nmarket = "{market}"\nurls = "{url}"\n'
    return f"[accounts.{name}]\n{which}{_KEYS}"
