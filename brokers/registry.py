"""Open the broker of an account, by the adapter that its configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points

from brokers.protocol import Broker
from configuration.accounts import AccountSettings
from configuration.settings import ConfigurationError

ENTRY_POINTS = "breaker.brokers"
"""Third parties register a callable `(name, AccountSettings) -> Broker` in this group."""

_BUILT_IN = {
    "alpaca": ("brokers.alpaca", "from_settings"),
    "ccxt": ("brokers.ccxt", "from_settings"),
    "ib": ("brokers.ib", "from_settings"),
}


def open_broker(name: str, account: AccountSettings) -> Broker:
    """Make the broker of one account; nothing is sent yet.

    Raises:
        ConfigurationError: no adapter of that name is installed, or what is registered is no broker.
    """
    if account.adapter in _BUILT_IN:
        module, function = _BUILT_IN[account.adapter]
        make = getattr(import_module(module), function)
    else:
        found = entry_points(group=ENTRY_POINTS, name=account.adapter)
        if not found:
            known = sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group=ENTRY_POINTS))})
            raise ConfigurationError(
                f"accounts.{name}.adapter: no adapter '{account.adapter}' is installed; known are {', '.join(known)}"
            )
        make = next(iter(found)).load()
    broker = make(name, account)
    if not isinstance(broker, Broker):
        members = {member for member in (*vars(Broker), *Broker.__annotations__) if not member.startswith("_")}
        missing = ", ".join(sorted(member for member in members if not hasattr(broker, member)))
        raise ConfigurationError(
            f"accounts.{name}.adapter: '{account.adapter}' does not provide a broker; it lacks {missing} "
            "(brokers.protocol.Broker, which an adapter may derive from)"
        )
    return broker


def open_brokers(accounts: Mapping[str, AccountSettings]) -> dict[str, Broker]:
    return {name: open_broker(name, account) for name, account in accounts.items()}
