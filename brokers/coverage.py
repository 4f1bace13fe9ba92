"""Decide what a kill switch of a scope touches: which accounts, and what in them. Pure.

`global` covers everything, `account:NAME` that account, `symbol:NAME` that symbol and the options written on it in
every account, `strategy:NAME` the orders that carry its tag. Accounts that are asked for narrow that, and never widen
it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from breaker.errors import InvalidInput
from breaker.instruments import canonical_symbol, concerns_symbol
from breaker.keys import GLOBAL, check_scope
from breaker.orders import Fill, Order, Position, Unreadable
from brokers.protocol import Listed
from configuration.monitor import feed_scope, monitored_scope

if TYPE_CHECKING:
    from configuration.settings import Settings

TAG_ENDS = (":", "-")
"""What follows a strategy's name in a client order id that carries its tag: `meanrev:0192…` is one of `meanrev`."""
POSITIONS_UNKNOWN = (
    "a venue does not say which positions are a strategy's, and no engine publishes its own: none was closed; "
    "flatten its symbol:NAME or account:NAME"
)


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a kill switch may touch. Whatever it is not asked about stays as it is."""

    scope: str
    """Of the breaker that is tripped, and that covers everything else in here; names as they are configured."""
    accounts: tuple[str, ...]
    symbol: str = ""
    """Canonical; only this one, with every option on it, unless empty."""
    strategy: str = ""
    """Only orders that carry its tag, unless empty. Positions carry none."""
    every_account: bool = False
    """All accounts that are configured are meant, and not only those that are named."""

    @property
    def whole_accounts(self) -> bool:
        """Whether everything in the accounts is covered: only then may anything be asked in bulk, or unseen."""
        return not self.symbol and not self.strategy

    @property
    def positions_known(self) -> bool:
        """Whether it can be told of a position that it is covered: nothing is flat otherwise."""
        return not self.strategy

    def __str__(self) -> str:
        accounts = ", ".join(self.accounts) or "every account"
        if self.symbol:
            return f"{self.symbol} and the options on it in {accounts}"
        return f"the orders of {self.strategy} in {accounts}" if self.strategy else accounts

    @property
    def effect(self) -> str:
        """What a kill switch does, in a sentence."""
        if self.strategy:
            return f"Every order of the strategy {self.strategy} is cancelled in {self._where}, and no position closed."
        if self.symbol:
            what = f"{self.symbol} and of the options on it"
            return f"Every order of {what} is cancelled and every such position closed in {self._where}."
        return f"Every order is cancelled and every position closed in {self._where}."

    @property
    def _where(self) -> str:
        return ", ".join(self.accounts) or "every account"

    def contains(self, other: Coverage) -> bool:
        """Whether whatever the other one covers is covered."""
        same_part = self.whole_accounts or (self.symbol, self.strategy) == (other.symbol, other.strategy)
        return same_part and {*other.accounts} <= {*self.accounts}

    def covers_symbol(self, symbol: str) -> bool:
        """Whether everything of that symbol is covered."""
        return not self.strategy and (not self.symbol or concerns_symbol(self.symbol, symbol))

    def covers_position(self, position: Position) -> bool:
        return self.covers_symbol(position.symbol)

    def covers_order(self, order: Order) -> bool:
        if self.strategy:
            return carries_tag(order, self.strategy)
        return self.covers_symbol(order.symbol)

    def covers_unread(self, item: Unreadable) -> bool:
        """Whether it is certain that what can't be read is covered, so that it may be cancelled by its id."""
        return self.whole_accounts or (bool(item.symbol) and self.covers_symbol(item.symbol))

    def may_cover_unread(self, item: Unreadable) -> bool:
        """Whether what can't be read may be covered: nothing is flat beside it."""
        if self.strategy:
            return item.what == "order"
        return not item.symbol or self.covers_symbol(item.symbol)

    def of_orders(self, listed: Listed[Order]) -> Listed[Order]:
        """Those of the orders that are covered. Legs of one order can only be cancelled together, so they are too."""
        if self.whole_accounts:
            return listed
        covered = {order.cancel_id for order in listed.items if self.covers_order(order)}
        return Listed(
            tuple(order for order in listed.items if order.cancel_id in covered),
            tuple(item for item in listed.unreadable if self.may_cover_unread(item)),
        )

    def of_positions(self, listed: Listed[Position]) -> Listed[Position]:
        """Those of the positions that are covered."""
        if self.whole_accounts:
            return listed
        return Listed(
            tuple(position for position in listed.items if self.covers_position(position)),
            tuple(item for item in listed.unreadable if self.may_cover_unread(item)),
        )

    def of_fills(self, listed: Listed[Fill]) -> Listed[Fill]:
        """Those of the fills whose symbol is covered."""
        if self.whole_accounts:
            return listed
        return Listed(
            tuple(fill for fill in listed.items if self.covers_symbol(fill.symbol)),
            tuple(item for item in listed.unreadable if self.positions_known and self.may_cover_unread(item)),
        )


def coverage_of(scope: str, configured: Iterable[str], asked: Iterable[str] = ()) -> Coverage:
    """What the kill switch of `scope` covers of the `configured` accounts, narrowed to those `asked` for, if any.

    Without a configured account it covers none: the breaker can be tripped all the same.

    Raises:
        InvalidInput: nobody can tell what the scope covers, it or `asked` names an account that is not configured, or
            `asked` names one outside of the scope. Nothing is to be done then, not even a trip.
    """
    check_scope(scope)
    known = tuple(configured)
    narrowed = tuple(dict.fromkeys(name.upper() for name in asked))
    kind, _, name = scope.partition(":")
    if scope == GLOBAL:
        covered = Coverage(scope, known, every_account=True)
    elif kind == "account" and name:
        covered = Coverage(f"account:{name.upper()}", (name.upper(),))
    elif kind == "symbol" and name:
        covered = Coverage(f"symbol:{canonical_symbol(name)}", known, symbol=canonical_symbol(name), every_account=True)
    elif kind == "strategy" and name:
        covered = Coverage(scope, known, strategy=name, every_account=True)
    else:
        raise InvalidInput(
            f"A kill switch can't tell what {scope} covers; nothing changed, not even halted. Name global, "
            f"account:NAME, symbol:NAME or strategy:NAME; `breaker trip --scope {scope}` only halts."
        )
    if not known and not narrowed:
        return replace(covered, accounts=())
    if unknown := [account for account in dict.fromkeys((*covered.accounts, *narrowed)) if account not in known]:
        raise InvalidInput(
            f"No account {', '.join(unknown)} is configured (there are: {', '.join(known) or 'none'}); nothing "
            "changed, not even halted."
        )
    if outside := [account for account in narrowed if account not in covered.accounts]:
        raise InvalidInput(
            f"The account {', '.join(outside)} is outside of the scope {covered.scope}; nothing changed, not even "
            "halted. Name a scope that covers it."
        )
    return replace(covered, accounts=narrowed, every_account=False) if narrowed else covered


@dataclass(frozen=True, slots=True)
class NamedScope:
    """A scope, names as they are configured; `doubt` is why no gate may be watching it, empty where it is known."""

    scope: str
    doubt: str = ""


def named_scope(scope: str, configured: Iterable[str], named: Iterable[str] = ()) -> NamedScope:
    """Which breaker is meant by what was typed, named as its kill switch names it. An engine may ask for any other.

    Args:
        scope: What was typed.
        configured: The accounts.
        named: Further scopes that the configuration names, such as those of rules.

    Raises InvalidInput for what is no scope.
    """
    check_scope(scope)
    known = tuple(configured)
    kind, _, name = scope.partition(":")
    if scope in named or scope == GLOBAL or (kind == "strategy" and name):
        return NamedScope(scope)
    if kind == "symbol" and name:
        return NamedScope(f"symbol:{canonical_symbol(name)}")
    if kind != "account" or not name:
        return NamedScope(scope, f"{scope} is none of global, account:NAME, symbol:NAME and strategy:NAME")
    if name.upper() in known:
        return NamedScope(f"account:{name.upper()}")
    return NamedScope(scope, f"no account of the name {name} is configured (there are: {', '.join(known) or 'none'})")


def named_in(settings: Settings, scope: str) -> NamedScope:
    """`named_scope` among what is configured: accounts, and the scopes that rules, feeds and accounts name."""
    monitored = (monitored_scope(name, settings.accounts) for name in settings.accounts)
    of_feeds = (feed_scope(feed, settings.accounts) for feed in settings.feeds.values())
    return named_scope(scope, settings.accounts, {*settings.rules, *monitored, *of_feeds})


def carries_tag(order: Order, strategy: str) -> bool:
    """Whether the client order id says that the order is the strategy's."""
    client_order_id = order.client_order_id
    return client_order_id == strategy or client_order_id.startswith(tuple(strategy + end for end in TAG_ENDS))
