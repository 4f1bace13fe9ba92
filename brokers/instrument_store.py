"""Keep on this host's disk what a venue said of its instruments, so that a close needs no answer for it.

One file for each account, JSON, written whole. It may be lost, old or damaged at any time: whatever it doesn't tell has
a safe answer (`breaker.instruments`). Blocks as long as the disk does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from breaker.atomic_file import write_atomically
from breaker.instruments import AssetClass, Instrument, Session

_BANDS: Final = "price_bands"


@dataclass(frozen=True, slots=True)
class InstrumentStore:
    """The instruments of one account, in a directory that accounts share."""

    directory: Path
    account: str

    @property
    def path(self) -> Path:
        return self.directory / f"{quote(self.account, safe='')}.json"

    def read(self) -> dict[str, Instrument]:
        """By the venue's symbols; without those that can't be read. Never raises."""
        try:
            kept = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        if not isinstance(kept, dict):
            return {}
        read = {str(symbol): _instrument(body) for symbol, body in kept.items()}
        return {symbol: instrument for symbol, instrument in read.items() if instrument is not None}

    def add(self, found: Mapping[str, Instrument]) -> None:
        """Keep these too, in the place of what was known of the same symbols. Raises OSError."""
        if not found:
            return
        known = self.read()
        if {**known, **found} == known:
            return
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        body = {symbol: _body(instrument) for symbol, instrument in sorted({**known, **found}.items())}
        write_atomically(self.path, json.dumps(body, indent=1))


def _body(instrument: Instrument) -> dict[str, str]:
    said = {each.name: getattr(instrument, each.name) for each in fields(instrument) if each.name != _BANDS}
    body = {
        name: f"{value:f}" if isinstance(value, Decimal) else str(value)
        for name, value in said.items()
        if value is not None and value is not False
    }
    bands = " ".join(f"{lowest:f}:{step:f}" for lowest, step in instrument.price_bands)
    return {**body, _BANDS: bands} if bands else body


def _instrument(body: Any) -> Instrument | None:
    """None where it makes no sense, as what a newer version writes may."""
    try:
        words = dict(body)
        asset_class = AssetClass(words.pop("asset_class"))
        trades = Session(words.pop("trades")) if "trades" in words else None
        inverse = words.pop("inverse", "") == str(True)
        bands = tuple(_band(text) for text in words.pop(_BANDS, "").split())
        numbers = {name: Decimal(value) for name, value in words.items()}
        if not all(number.is_finite() and number > 0 for number in numbers.values()):
            return None
        return Instrument(asset_class, trades=trades, price_bands=bands, inverse=inverse, **numbers)
    except (AttributeError, InvalidOperation, KeyError, TypeError, ValueError):
        return None


def _band(text: str) -> tuple[Decimal, Decimal]:
    """Raises ValueError for none."""
    lowest, step = (Decimal(part) for part in text.split(":"))
    if not (lowest.is_finite() and step.is_finite() and step > 0):
        raise ValueError(text)
    return lowest, step
