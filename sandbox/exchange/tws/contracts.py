"""Describe what the exchange lists as Interactive Brokers does: contracts with an id, a kind and trading hours. Pure.

Sources: the TWS API's documentation of `Contract` and `ContractDetails`. A stock is `STK`, an option `OPT` with its OCC
symbol for a local symbol, a pair with a currency of no state `CRYPTO`; a future is `FUT`, a pair of states' currencies
`CASH`, and both are traded only where the order names their exchange, which positions don't tell.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final

from breaker.instruments import AssetClass
from sandbox.exchange.assets import Asset
from sandbox.exchange.book import Book
from sandbox.exchange.futures_forex_assets import future_root, last_trade_date, pair_of, root_of
from sandbox.exchange.scenario import Session
from sandbox.exchange.tws.framing import Field

TIME_ZONE: Final = "UTC"
_DAY_LASTS: Final = timedelta(hours=8)
_ONLY_AT_THEIR_EXCHANGE: Final = frozenset({"FUT", "CASH"})


@dataclass(frozen=True, slots=True)
class PaperContract:
    """One thing that is listed, in the words of a contract."""

    listed_as: str
    """Its symbol at the exchange."""
    con_id: int
    symbol: str
    kind: str
    expiry: str = ""
    strike: str = "0.0"
    right: str = ""
    multiplier: str = ""
    exchange: str = "SMART"
    currency: str = "USD"
    local_symbol: str = ""
    trading_class: str = ""

    @property
    def fields(self) -> list[Field]:
        """As orders and positions begin: eleven fields, the first of them the id."""
        return [
            self.con_id,
            self.symbol,
            self.kind,
            self.expiry,
            self.strike,
            self.right,
            self.multiplier,
            self.exchange,
            self.currency,
            self.local_symbol,
            self.trading_class,
        ]

    @property
    def held(self) -> PaperContract:
        """As positions have it: without the exchange of what could trade on several."""
        return replace(self, exchange="") if self.kind in _ONLY_AT_THEIR_EXCHANGE else self

    @property
    def primary_exchange(self) -> str:
        return "NASDAQ" if self.kind in {"STK", "OPT"} else ""


@lru_cache(maxsize=4_096)
def contract_for(asset: Asset) -> PaperContract:
    """What this asset is called."""
    name, con_id = asset.symbol, zlib.crc32(asset.symbol.encode()) % 900_000_000 + 1_000
    if asset.asset_class is AssetClass.OPTION:
        root, tail = name[:-15], name[-15:]
        strike = f"{Decimal(tail[7:]) / 1000:f}"
        local = f"{root:<6}{tail}"
        return PaperContract(
            name, con_id, root, "OPT", f"20{tail[:6]}", strike, tail[6], "100", "SMART", "USD", local, root
        )
    if asset.asset_class is AssetClass.CRYPTO:
        base, _, quote = name.partition("/")
        local = f"{base}.{quote}"
        return PaperContract(name, con_id, base, "CRYPTO", exchange="PAXOS", currency=quote, local_symbol=local)
    if (family := future_root(name)) is not None:
        expiry = asset.last_trade or last_trade_date(name, datetime.now(UTC).date())
        return PaperContract(
            name,
            con_id,
            root_of(name),
            "FUT",
            f"{expiry:%Y%m%d}",
            multiplier=f"{family.multiplier:f}",
            exchange=family.exchange,
            local_symbol=name,
            trading_class=root_of(name),
        )
    if (pair := pair_of(name)) is not None:
        base, quote = pair
        return PaperContract(
            name, con_id, base, "CASH", exchange="IDEALPRO", currency=quote, local_symbol=name, trading_class=name
        )
    return PaperContract(name, con_id, name, "STK", local_symbol=name, trading_class="NMS")


def find_contract(book: Book, wanted: Sequence[str]) -> PaperContract | None:
    """What a request's twelve fields of a contract mean: its id decides, else kind, symbol and what else is given.

    None, too, for what has expired, and for a future or a pair at another exchange than its own.
    """
    exchange = wanted[7]
    contract = _find(book, wanted)
    if contract is None or has_expired(book.asset(contract.listed_as), datetime.now(UTC).date()):
        return None
    elsewhere = contract.kind in _ONLY_AT_THEIR_EXCHANGE and exchange not in {"", contract.exchange}
    return None if elsewhere else contract


def has_expired(asset: Asset, today: date) -> bool:
    """Whether its last day of trading is over."""
    return asset.last_trade is not None and asset.last_trade < today


def _find(book: Book, wanted: Sequence[str]) -> PaperContract | None:
    con_id, symbol, kind, expiry, strike, right, _multiplier, _exchange, _primary, currency, local = wanted[:11]
    for listed in book.prices:
        contract = contract_for(book.asset(listed))
        if con_id not in {"", "0"}:
            if str(contract.con_id) == con_id:
                return contract
            continue
        if (
            contract.symbol == symbol
            and contract.kind == kind
            and currency in {"", contract.currency}
            and local in {"", contract.local_symbol}
            and expiry in {"", contract.expiry}
            and right in {"", contract.right}
            and float(strike or 0) in {0.0, float(contract.strike)}
        ):
            return contract
    return None


def details_message(
    request_id: str, contract: PaperContract, asset: Asset, hours: tuple[str, str], price: Decimal
) -> list[Field]:
    """A `contractDetails` message of server versions from 164 on."""
    trading, liquid = hours
    smallest = asset.minimum_quantity or asset.quantity_increment
    return [
        10,
        request_id,
        contract.symbol,
        contract.kind,
        contract.expiry,
        contract.strike,
        contract.right,
        contract.exchange,
        contract.currency,
        contract.local_symbol,
        contract.trading_class,  # the name of its market
        contract.trading_class,
        contract.con_id,
        min((step for _, step in asset.price_bands), default=asset.tick(price)),
        contract.multiplier,
        "ACTIVETIM,DAY,GTC,LMT,MKT,STP,TRAIL,OUTSIDERTH",
        contract.exchange,
        1,  # price magnifier
        0,  # id of the underlying
        contract.symbol,
        contract.primary_exchange,
        contract.expiry[:6],
        "",
        "",
        "",
        TIME_ZONE,
        trading,
        liquid,
        "",
        "",
        0,  # how many further ids
        1,
        "",
        "",
        rule_of(asset),
        contract.expiry,
        "COMMON" if contract.kind == "STK" else "",
        smallest,
        asset.quantity_increment,
        asset.quantity_increment,
    ]


def rule_of(asset: Asset) -> int:
    """The number of the rule that its price steps follow."""
    bands = bands_of(asset)
    return zlib.crc32(repr(bands).encode()) % 9_000 + 1


def bands_of(asset: Asset) -> tuple[tuple[Decimal, Decimal], ...]:
    """Each band's lowest price and its step."""
    if asset.price_bands:
        return asset.price_bands
    if asset.price_increment is not None:
        return ((Decimal(0), asset.price_increment),)
    return tuple((lowest, asset.tick(lowest)) for lowest in (Decimal(0), Decimal(1)))


def hours(now: datetime, session: Session, opens_at: datetime | None, asset_class: AssetClass) -> tuple[str, str]:
    """Trading and liquid hours as `ContractDetails` has them, of today and the next session; minutes, in UTC."""
    around = asset_class is AssetClass.FOREX and session is not Session.CLOSED
    if asset_class is AssetClass.CRYPTO or around:
        always = _span(now - timedelta(hours=1), now + timedelta(hours=23))
        return always, always
    if session is Session.OPEN:
        today = _span(now - timedelta(hours=1), now + _DAY_LASTS)
        return today, today
    opens = opens_at or now + timedelta(hours=12)
    following = _span(opens, opens + _DAY_LASTS)
    closed = f"{now:%Y%m%d}:CLOSED;{following}"
    if session is Session.CLOSED or asset_class is AssetClass.OPTION:
        return closed, closed
    return f"{_span(now - timedelta(hours=1), opens)};{following}", closed


def _span(begin: datetime, end: datetime) -> str:
    """Both in whole minutes, the later one where they are none: a market that is closed must not look open."""
    begin, end = (moment.astimezone(UTC) + timedelta(seconds=59) for moment in (begin, end))
    return f"{begin:%Y%m%d:%H%M}-{end:%Y%m%d:%H%M}"
