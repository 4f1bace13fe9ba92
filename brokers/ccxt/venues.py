"""Say in which words exchanges are told apart, as far as a kill switch has to know before it asks them.

ccxt makes their calls alike, not what the calls leave out: some list conditional orders apart, some list only what is
settled in one currency unless they are asked for the others, some answer in pages. What each is like is in the table
(`venue_table`).
"""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from brokers.protocol import ClientOrderIds, Weights

Params = Mapping[str, Any]
MARKETS = ("spot", "margin", "swap", "future")
"""What `market` of an account may be: which of the exchange's wallets it is."""
ALPHANUMERIC = string.ascii_letters + string.digits
CAREFUL_IDS = ClientOrderIds(32, ALPHANUMERIC, unique=False)
"""What any exchange takes that takes client order ids."""
_ONE_EACH = Weights()


class Pages(StrEnum):
    """How an exchange goes on with a list that is longer than one answer."""

    ALL_AT_ONCE = "all at once"
    CURSOR = "cursor"
    """Each answer has the next one's token (Bybit)."""
    AFTER_ID = "after"
    """Newest first; the next is `after` the oldest id, as OKX calls what is older."""
    BELOW_ID = "idLessThan"
    """Newest first; the next has ids below the oldest (Bitget)."""
    OFFSET = "offset"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class View:
    """One list that an exchange gives of its open orders; all of them together are every open order.

    Attributes:
        name: what tells it from the others, within the id of an order; empty for the ordinary one.
        listing: what ccxt is asked with.
        cancelling: what ccxt is told to cancel one of these, or all of a symbol.
        conditional: whether these wait for a price, and turn into others when it is reached.
        raw: the exchange's own call and where its list is, where ccxt's leaves something out.
        line: the product line whose orders these are; empty where there is but one.
        absent: codes by which the exchange says that there is no such list, or no such part of this account: then
            there is nothing in it.
    """

    name: str = ""
    listing: Params = field(default_factory=dict)
    cancelling: Params = field(default_factory=dict)
    conditional: bool = False
    raw: tuple[str, tuple[str, ...]] | None = None
    line: str = ""
    absent: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PositionView:
    """One list that an exchange gives of positions; all of them together are every position.

    Attributes:
        line: the product line whose positions these are; empty where there is but one.
        listing: what ccxt is asked with.
        raw: the exchange's own call and where its list is, where ccxt's leaves something out; not asked of an account
            that the exchange calls unified, whose calls are others.
        absent: as that of a `View`.
    """

    line: str = ""
    listing: Params = field(default_factory=dict)
    raw: tuple[str, tuple[str, ...]] | None = None
    absent: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class UnifiedAccount:
    """How an account is asked whether it is of the kind that its exchange calls unified, whose calls are others.

    ccxt takes any failure of that question, as of the network, for a no that it keeps.

    Attributes:
        call: the exchange's own.
        path: where its answer says which kind it is; empty: only accounts of the kind get an answer.
        word: what is there of one that is unified.
    """

    call: str
    path: tuple[str, ...] = ()
    word: str = ""


@dataclass(frozen=True, slots=True)
class Timer:
    """How an exchange's dead-man timer is asked for over REST, and by what its answer says that it runs.

    Attributes:
        per_symbol: the exchange's own call for one symbol's; empty: it is the account's, by ccxt's call.
        fires_at: where the answer says when it fires; empty where it doesn't.
        now: where the answer has the exchange's own time, from which that is counted.
        taken: where an answer that says no more has its word for a yes, and the word.
    """

    per_symbol: str = ""
    fires_at: tuple[str, ...] = ()
    now: tuple[str, ...] = ()
    taken: tuple[tuple[str, ...], str] | None = None


@dataclass(frozen=True, slots=True)
class Venue:
    """One exchange, in one of its markets.

    Attributes:
        client_order_ids: what it takes as one; of `unique` see the source.
        id_key: under which name ccxt wants it.
        id_prefix: what the exchange puts before it.
        finds_by: what ccxt's `fetchOrder` is asked with to find an order by it; empty where it can't.
        orders: every list of open orders, conditional ones first: what is set off meanwhile is then seen in the other.
        positions: every list of positions.
        pages: how a long list goes on; `page_size` is the most in one answer, `positions_page` of a list of positions
            (0: they are told all at once).
        cancels_all: in one request for the whole account, or for each symbol; empty where it can't.
        batch: most orders that one request cancels by their ids.
        market_orders: whether there are any; else a close is a limit order that the market takes.
        timer: its dead-man timer, where it has one that requests over REST arm.
        fills_by_symbol: whether executions are listed for one symbol only.
        transfers: which of ccxt's calls list money that was moved in or out; none of them: it isn't told.
        transfers_page: most of them in one answer.
        requests_per_minute: in requests of weight one; None: ccxt's own figure.
        weights: of these, what each kind costs.
        options: what ccxt is made with.
        conditional_singly: whether conditional orders have no request that cancels several by their ids.
        verifies_conditional: whether one that is no longer listed can be asked for by its id.
        equity: where the account's equity is in the answer to `fetchBalance`; empty: it is added up.
        told_under: keys of an answer under which lists and balances are, where it isn't one itself. Where ccxt makes
            nothing of an answer one of them has to be there, and be empty. None: that is not known, and not checked.
        unified: how an account is asked whether it is a unified one; None: there are none, or it makes no difference.
        inverse_in_coins: whether an inverse contract is so many coins, and not so much money.
        not_covered: what of the same login is neither read nor closed, in words.
        known: whether the entry is more than the careful guess that others get.
    """

    client_order_ids: ClientOrderIds = CAREFUL_IDS
    id_key: str = "clientOrderId"
    id_prefix: str = ""
    finds_by: str = ""
    orders: tuple[View, ...] = (View(),)
    positions: tuple[PositionView, ...] = (PositionView(),)
    pages: Pages = Pages.ALL_AT_ONCE
    page_size: int = 100
    positions_page: int = 0
    cancels_all: Literal["", "account", "symbol"] = ""
    batch: int = 0
    market_orders: bool = True
    timer: Timer | None = None
    fills_by_symbol: bool = False
    transfers: tuple[str, ...] = ()
    transfers_page: int = 1000
    requests_per_minute: int | None = None
    weights: Weights = _ONE_EACH
    options: Params = field(default_factory=dict)
    conditional_singly: bool = False
    verifies_conditional: bool = False
    equity: tuple[str, ...] = ()
    told_under: tuple[str, ...] = ()
    unified: UnifiedAccount | None = None
    inverse_in_coins: bool = False
    not_covered: str = ""
    known: bool = True

    @property
    def lines(self) -> tuple[str, ...]:
        """The product lines that its lists are of, in their order."""
        named = [view.line for view in self.orders] + [view.line for view in self.positions]
        return tuple(dict.fromkeys(line for line in named if line))

    def without(self, lines: Collection[str]) -> Venue:
        """The same, but for the lists of these product lines."""
        orders = tuple(view for view in self.orders if view.line not in lines)
        positions = tuple(view for view in self.positions if view.line not in lines)
        return replace(self, orders=orders, positions=positions)
