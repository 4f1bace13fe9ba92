"""Decide about new orders as Binance does: filters, balances or margin, position side, reduce-only.

Sources: "Filters" and "Error Codes" of the spot API and of USDⓈ-M futures (developers.binance.com). That a reduce-only
order is trimmed to the position, that in hedge mode `reduceOnly` is not to be sent, and that there a close of more than
the position has left is -2022, is what people have reported of it.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, Decimal
from re import fullmatch
from typing import Final

from breaker.orders import ZERO, Side
from sandbox.exchange.acceptance import Acceptance
from sandbox.exchange.assets import Asset
from sandbox.exchange.binance import errors
from sandbox.exchange.binance.balances import free
from sandbox.exchange.binance.errors import BinanceRefusal
from sandbox.exchange.crypto_assets import currencies_of
from sandbox.exchange.halt import Halt
from sandbox.exchange.orders import OrderRequest
from sandbox.exchange.scenario import ExitRefusal, Session

_MOST_DECIMALS: Final = -8


class _BinanceAcceptance(Acceptance):
    """What the two markets share."""

    def check_client_order_id(self, client_order_id: str | None) -> None:
        """It must be unique among the open orders, and only among these."""
        if client_order_id is None:
            return
        if not fullmatch(errors.LEGAL_CLIENT_ORDER_ID, client_order_id):
            raise self._illegal_id()
        if self._book.knows_client_order_id(client_order_id):
            known = self._book.order_by_client_id(client_order_id)
            if known.is_open:
                self._record.duplicate_refused(client_order_id)
                raise self._duplicate()

    def check_cover(self, changes: dict[str, Decimal]) -> None:
        """Nothing here covers anything else."""

    def refuse_exit(self, rule: ExitRefusal) -> BinanceRefusal:
        """Count it, and say it in the venue's words."""
        self._record.exits_refused += 1
        return self._exit_refused(rule)

    def _note_if_too_large(self, request: OrderRequest, qty: Decimal) -> None:
        size = self._book.reducible(request.position_name, request.side)
        if size and qty > size:
            self._record.refused_as_too_large(request.position_name, qty, size)

    def _exit_refused(self, rule: ExitRefusal) -> BinanceRefusal:
        raise NotImplementedError

    def _illegal_id(self) -> BinanceRefusal:
        raise NotImplementedError

    def _duplicate(self) -> BinanceRefusal:
        raise NotImplementedError


class SpotAcceptance(_BinanceAcceptance):
    """Rules of the spot API."""

    def check_account(self) -> None:
        if self.locks.why:
            raise errors.account_disabled()

    def check_tradable(self, symbol: str, halt: Halt | None) -> None:
        if symbol not in self._book.prices:
            raise errors.invalid_symbol()
        if halt and halt.rejects:
            raise errors.market_closed()

    def check_terms(self, request: OrderRequest, session: Session) -> Decimal:
        asset = self._book.asset(request.symbol)
        price = request.limit_price or self._book.prices[request.symbol]
        qty = _for_an_amount(request.notional, price, asset) if request.qty is None else request.qty
        for name, given in (
            ("quantity", request.qty),
            ("price", request.limit_price),
            ("stopPrice", request.stop_price),
        ):
            if given is not None and _decimals(given) < _MOST_DECIMALS:
                raise errors.spot_too_precise(name)
        for given in (request.limit_price, request.stop_price):
            if given is not None and given % asset.tick(given):
                raise errors.filter_failure("PRICE_FILTER")
        too_much = asset.maximum_quantity is not None and qty > asset.maximum_quantity
        if qty < asset.minimum_quantity or too_much or qty % asset.quantity_increment:
            raise errors.filter_failure("LOT_SIZE")
        most = asset.maximum_market_quantity
        if request.limit_price is None and most is not None and qty > most:
            raise errors.filter_failure("MARKET_LOT_SIZE")
        if qty * price < asset.minimum_cost:
            raise errors.filter_failure("NOTIONAL")
        if _is_reached(request, self._book.prices[request.symbol]):
            raise errors.stop_would_trigger()
        return qty

    def check_size(self, request: OrderRequest, qty: Decimal) -> bool:
        base, quote = currencies_of(request.symbol)
        if request.side is Side.BUY:
            price = request.limit_price or self._book.prices[request.symbol]
            if qty * price > free(self._book, quote):
                raise errors.insufficient_balance()
            return False
        if qty > free(self._book, base):
            self._note_if_too_large(request, qty)
            raise errors.insufficient_balance()
        return True

    def _exit_refused(self, rule: ExitRefusal) -> BinanceRefusal:
        if rule.reason == "buying_power":
            return errors.insufficient_balance()
        return errors.filter_failure("PERCENT_PRICE_BY_SIDE")

    def _illegal_id(self) -> BinanceRefusal:
        return errors.illegal_characters("newClientOrderId", errors.LEGAL_CLIENT_ORDER_ID)

    def _duplicate(self) -> BinanceRefusal:
        return errors.duplicate_order()


class FuturesAcceptance(_BinanceAcceptance):
    """Rules of USDⓈ-M futures."""

    def check_account(self) -> None:
        if self.locks.why:
            raise errors.no_orders_now()

    def check_tradable(self, symbol: str, halt: Halt | None) -> None:
        if symbol not in self._book.prices:
            raise errors.invalid_symbol()
        if halt and halt.rejects:
            raise errors.symbol_closed()

    def check_terms(self, request: OrderRequest, session: Session) -> Decimal:
        if (request.position_side is None) == self._book.hedged:
            raise errors.position_side_mismatch()
        if request.reduce_only and self._book.hedged:
            raise errors.not_required("reduceonly")
        asset = self._book.asset(request.symbol)
        self._check_prices(request, asset)
        if request.close_position:
            return self._book.reducible(request.position_name, request.side)
        qty = request.qty or ZERO
        _check_quantity(qty, asset, is_market=request.limit_price is None and not request.conditional)
        price = request.limit_price or request.stop_price or self._book.prices[request.symbol]
        if not request.only_reduces and qty * price < asset.minimum_cost:
            raise errors.below_minimum_notional(asset.minimum_cost)
        return qty

    def check_size(self, request: OrderRequest, qty: Decimal) -> bool:
        name, side = request.position_name, request.side
        reducible = self._book.reducible(name, side)
        if request.only_reduces:
            self._check_reducing(request, qty, reducible)
            return True
        opened = qty - reducible
        if not request.conditional and self._book.value(request.symbol, opened) > self._book.buying_power:
            raise errors.margin_insufficient()
        return reducible > 0

    def trimmed(self, request: OrderRequest, qty: Decimal) -> Decimal:
        """To what there is to reduce."""
        if not request.only_reduces or request.conditional:
            return qty
        return min(qty, self._book.reducible(request.position_name, request.side))

    def _check_reducing(self, request: OrderRequest, qty: Decimal, reducible: Decimal) -> None:
        if not reducible:
            raise errors.reduce_only_rejected()
        if request.conditional:
            return
        held = self._book.held(request.position_name, request.side)
        if self._book.hedged and qty > reducible - held:
            self._note_if_too_large(request, qty)
            raise errors.reduce_only_rejected()
        if held and min(qty, reducible) + held > reducible:
            raise errors.reduce_only_failed()

    def _check_prices(self, request: OrderRequest, asset: Asset) -> None:
        for given in (request.limit_price, request.stop_price):
            if given is None:
                continue
            if _decimals(given) < _decimals(asset.tick(given)) - 1:
                raise errors.too_precise()
            if given % asset.tick(given):
                raise errors.off_the_tick()
        if _is_reached(request, self._book.prices[request.symbol]):
            raise errors.would_trigger()

    def _exit_refused(self, rule: ExitRefusal) -> BinanceRefusal:
        return errors.margin_insufficient() if rule.reason == "buying_power" else errors.price_band()

    def _illegal_id(self) -> BinanceRefusal:
        return BinanceRefusal(-4015, "Client order id is not valid.")

    def _duplicate(self) -> BinanceRefusal:
        return errors.duplicate_client_order_id()


def _check_quantity(qty: Decimal, asset: Asset, *, is_market: bool) -> None:
    """Of a futures order."""
    if qty <= 0:
        raise errors.no_quantity()
    if qty % asset.quantity_increment:
        raise errors.too_precise()
    if qty < asset.minimum_quantity:
        raise errors.below_minimum_quantity()
    limits = [asset.maximum_quantity, asset.maximum_market_quantity if is_market else None]
    if any(most is not None and qty > most for most in limits):
        raise errors.above_maximum_quantity()


def _is_reached(request: OrderRequest, price: Decimal) -> bool:
    """Whether the market is already where the order waits for it."""
    if request.stop_price is None:
        return False
    sign = -request.side.sign if request.takes_profit else request.side.sign
    return (price - request.stop_price) * sign >= 0


def _for_an_amount(amount: Decimal | None, price: Decimal, asset: Asset) -> Decimal:
    """So many steps of the asset as the amount pays for (`quoteOrderQty`)."""
    steps = ((amount or ZERO) / price / asset.quantity_increment).to_integral_value(ROUND_DOWN)
    return (steps * asset.quantity_increment).normalize()


def _decimals(value: Decimal) -> int:
    """The exponent of its last digit that is not zero; 0 for whole numbers."""
    return min(int(value.normalize().as_tuple().exponent), 0)
