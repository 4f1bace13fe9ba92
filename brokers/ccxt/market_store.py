"""Keep on this host's disk what an exchange lists: a kill switch neither waits for that nor fails without it.

One file for each exchange, market and place where it is asked, written whole: lines of JSON, compressed, the first of
which is about the others. It may be lost, old or damaged at any time. Nothing in it is an account's. Blocks as long as
the disk does.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from breaker.atomic_file import write_atomically

AT_ONCE = timedelta(days=1)
"""Up to this age a list is used before the exchange is asked for a newer one."""
MOST_BYTES = 64 * 2**20
"""Of one list, before it is compressed. The longest are some twenty megabytes; a longer one is not kept, or read."""
_UNREADABLE = (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError)
_QUICKLY = 1
"""Of gzip's levels: a tenth of the size is enough."""


@dataclass(frozen=True, slots=True)
class KeptMarkets:
    """One exchange's list of markets.

    Attributes:
        read_at: when the exchange was asked for it, UTC-aware.
        version: of ccxt, which may make more of the same answer in another one.
        markets: as ccxt's `fetchMarkets` gives them.
        helpers: those of ccxt's options that belong to the list (its `marketHelperProps`).
    """

    read_at: datetime
    version: str
    markets: Sequence[Mapping[str, Any]]
    helpers: Mapping[str, Any]

    def serves_at_once(self, now: datetime, version: str) -> bool:
        """Whether nobody need wait for a newer one. One from the future tells that a clock was set: then not."""
        return self.version == version and timedelta(0) <= now - self.read_at <= AT_ONCE


@dataclass(frozen=True, slots=True)
class MarketStore:
    """The file of one exchange's list, in a directory that accounts share."""

    directory: Path
    exchange: str
    market: str
    place: str = ""
    """What else the list depends on, as a test network; empty for the exchange as ccxt has it."""

    @property
    def path(self) -> Path:
        """Of the place only a digest is told, which two accounts at the same one have in common."""
        place = f"-{hashlib.sha256(self.place.encode()).hexdigest()[:12]}" if self.place else ""
        return self.directory / f"{self.exchange}-{self.market}{place}.jsonl.gz"

    def read(self) -> KeptMarkets | None:
        """None where there is none that can be read. Never raises."""
        try:
            with gzip.open(self.path) as file:
                content = file.read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                return None
            head, *markets = (json.loads(line) for line in content.splitlines())
            read_at = datetime.fromisoformat(head["read_at"])
            if not markets or len(markets) != head["markets"] or read_at.tzinfo is None:
                return None
            if not all(isinstance(market["symbol"], str) and market["id"] for market in markets):
                return None
            return KeptMarkets(read_at.astimezone(UTC), str(head["ccxt"]), markets, dict(head["helpers"]))
        except _UNREADABLE:
            return None

    def write(self, kept: KeptMarkets) -> None:
        """Put it in the place of the one before. Raises OSError; ValueError, TypeError for what can't be kept.

        Market after market: whoever else runs in this process is not held up for as long as a list takes.
        """
        head = {
            "read_at": kept.read_at.isoformat(),
            "ccxt": kept.version,
            "markets": len(kept.markets),
            "helpers": kept.helpers,
        }
        lines = [json.dumps(each).encode() for each in (head, *kept.markets)]
        if (size := sum(map(len, lines)) + len(lines)) > MOST_BYTES:
            raise ValueError(f"the list is {size} bytes long, more than the {MOST_BYTES} that are kept")
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self.path, gzip.compress(b"\n".join(lines), _QUICKLY))
