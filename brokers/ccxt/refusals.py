"""Tell from what an exchange says of a refused close, or of a refused cancel, what that means for the position. Pure.

By its code first, where the exchange has one for it, else by its words, which are much alike among exchanges.
"""

from __future__ import annotations

import re

from brokers.ccxt.errors import VenueRefused
from brokers.protocol import CancelOutcome, CancelResult, CloseOutcome, CloseResult, Refusal

_NOTHING_LEFT = frozenset({"-2022", "110017", "51169", "51023", "22002", "300009", "POSITION_EMPTY"})
"""A reduce-only order finds nothing to reduce. Binance −2022; Bybit 110017; OKX 51169, 51023; Bitget 22002; KuCoin
300009; Gate POSITION_EMPTY (their lists of error codes)."""
_HELD = frozenset({"-4118"})
"""Binance: resting reduce-only orders hold the quantity already."""
_DUPLICATE = frozenset({"-4116", "110072", "51016", "40786"})
"""Binance −4116, Bybit 110072, OKX 51016, Bitget 40786: the client order id was used before."""
_BELOW_MINIMUM = frozenset({"-4164", "-4003", "-4004", "110094", "51020", "45110"})
"""Binance −4164 (notional), −4003 and −4004 (quantity); Bybit 110094, OKX 51020, Bitget 45110."""
_PRICE_STEP = frozenset({"-4014", "51121"})
_WRONG_MODE = frozenset({"-4061", "-4060", "110025", "51000", "40774", "300011"})
"""An order for one position in an account that has two of a symbol, or the other way round."""
_NOT_OPEN = frozenset({"-2011", "-2013", "110001", "110008", "110010", "51400", "51401", "51402", "51410", "43001"})

_WORDS = {
    "duplicate": r"duplicat|client.?order.?id.*(exist|unique|used)",
    "nothing": r"reduce.?only.*(reject|would|increase)|no (open )?positions?\b"
    r"|position (is zero|does.?n.t exist|not exist)|would.?not.?reduce.?position",
    "minimum": r"min_?notional|\bNOTIONAL\b|notional must be|LOT_SIZE|minimum (order|size|amount|quantity|cost)"
    r"|less than (the )?min|too small",
    "price": r"PRICE_FILTER|tick.?size|price precision",
    "mode": r"position.?side|positionIdx|hedge.?mode|one.?way",
}
"""By words, in this order."""
_CANCEL_WORDS = re.compile(
    r"unknown order|order.{0,20}(not (found|exist)|does.?n.t exist)"
    r"|(already|been) (filled|cancell?ed|closed|completed)",
    re.IGNORECASE,
)
_SAID_BY_CLASS = {"InsufficientFunds": "held", "DuplicateOrderId": "duplicate"}
MODE = (
    "the account holds a long and a short position of a symbol apart (hedge mode) and this was asked as one, or it nets"
)


def refused_close(symbol: str, error: VenueRefused) -> CloseResult:
    """What a refusal of a close says of the position."""
    words, refusal = error.reason, Refusal.OTHER
    meaning = _meaning(error)
    if meaning == "duplicate":
        return CloseResult(symbol, CloseOutcome.DUPLICATE, None, words, error.code)
    if meaning == "nothing":
        refusal, words = Refusal.NOTHING_LEFT, f"{words}; nothing of it is left to close"
    elif meaning == "minimum":
        refusal = Refusal.BELOW_MINIMUM
    elif meaning == "price":
        refusal = Refusal.PRICE_STEP
    elif meaning == "held":
        refusal, words = Refusal.HELD, f"{words}; other orders hold the quantity"
    elif meaning == "mode":
        words = f"{words}; {MODE}"
    elif error.kind in ("BadSymbol", "ContractUnavailable"):
        words = f"{words}; the exchange does not trade {symbol} (any more): close it at the exchange"
    return CloseResult(symbol, CloseOutcome.REFUSED, None, words, error.code, refusal)


def _meaning(error: VenueRefused) -> str:
    for codes, meaning in (
        (_NOTHING_LEFT, "nothing"),
        (_HELD, "held"),
        (_DUPLICATE, "duplicate"),
        (_BELOW_MINIMUM, "minimum"),
        (_PRICE_STEP, "price"),
        (_WRONG_MODE, "mode"),
    ):
        if error.code in codes:
            return meaning
    if error.kind in _SAID_BY_CLASS:
        return _SAID_BY_CLASS[error.kind]
    return next((meaning for meaning, words in _WORDS.items() if re.search(words, error.reason, re.IGNORECASE)), "")


def refused_cancel(order_id: str, error: VenueRefused) -> CancelResult:
    """What a refusal of a cancel says of the order."""
    if error.kind == "CancelPending":
        return CancelResult(order_id, CancelOutcome.ACCEPTED)
    over = error.kind in ("OrderNotFound", "OrderNotCached") or error.code in _NOT_OPEN
    if over or _CANCEL_WORDS.search(error.reason):
        return CancelResult(order_id, CancelOutcome.NOT_OPEN, error.reason)
    return CancelResult(order_id, CancelOutcome.REFUSED, error.reason)


def failed_item(order_id: str, failure: str) -> CancelResult:
    """What a failure that is hidden in an answer says of one order."""
    code = failure.rpartition("(")[2].removesuffix(")")
    if code in _NOT_OPEN or _CANCEL_WORDS.search(failure):
        return CancelResult(order_id, CancelOutcome.NOT_OPEN, failure)
    return CancelResult(order_id, CancelOutcome.REFUSED, failure)
