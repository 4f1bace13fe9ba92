"""Open the broker of an account, by the adapter that its configuration names; one that won't open stops no other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from brokers.protocol import Broker
from brokers.unopened import UnopenedBroker
from configuration.accounts import AccountSettings
from configuration.settings import ConfigurationError, Settings

ENTRY_POINTS = "breaker.brokers"
"""Third parties register a callable `(name, AccountSettings) -> Broker` in this group."""
CLOSED_WITHIN = 5.0
"""Seconds that an adapter may take to release what it holds, before it is left as it is."""

_log = logging.getLogger(__name__)

_BUILT_IN = {
    "alpaca": ("brokers.alpaca", "from_settings"),
    "ccxt": ("brokers.ccxt", "from_settings"),
    "ib": ("brokers.ib", "from_settings"),
}


def open_broker(name: str, account: AccountSettings, *, markets_dir: Path | None = None) -> Broker:
    """Make the broker of one account; nothing is sent yet.

    Args:
        name: the account's name in the configuration.
        account: its settings.
        markets_dir: where the adapter `ccxt` keeps what exchanges list (`Settings.markets_dir`); None: nowhere.

    Raises:
        ConfigurationError: no adapter of that name is installed, it can't be opened, or what it makes is no broker.
    """
    if account.adapter in _BUILT_IN:
        module, function = _BUILT_IN[account.adapter]
        make = getattr(import_module(module), function)
        if account.adapter == "ccxt":
            make = partial(make, markets_dir=markets_dir)
    else:
        found = entry_points(group=ENTRY_POINTS, name=account.adapter)
        if not found:
            known = sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group=ENTRY_POINTS))})
            raise ConfigurationError(
                f"accounts.{name}.adapter: no adapter '{account.adapter}' is installed; known are {', '.join(known)}"
            )
        make = partial(_of_a_third_party, next(iter(found)))
    broker = make(name, account)
    if not isinstance(broker, Broker):
        members = {member for member in (*vars(Broker), *Broker.__annotations__) if not member.startswith("_")}
        missing = ", ".join(sorted(member for member in members if not hasattr(broker, member)))
        raise ConfigurationError(
            f"accounts.{name}.adapter: '{account.adapter}' does not provide a broker; it lacks {missing} "
            "(brokers.protocol.Broker, which an adapter may derive from)"
        )
    return broker


def open_account(settings: Settings, name: str) -> Broker:
    """The broker of an account as it is configured, with what this host keeps of its venue.

    Raises ConfigurationError, as `open_broker`.
    """
    return open_broker(name, settings.accounts[name], markets_dir=settings.markets_dir)


def _of_a_third_party(entry: EntryPoint, name: str, account: AccountSettings) -> Any:
    """Whatever it raises is told in a line, and is not the end of the other accounts."""
    try:
        return entry.load()(name, account)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"accounts.{name}.adapter: '{account.adapter}' can't be opened ({type(error).__name__}: {error})"
        ) from None


def open_brokers(accounts: Mapping[str, AccountSettings], *, markets_dir: Path | None = None) -> dict[str, Broker]:
    """Raises ConfigurationError where one of them can't be opened."""
    return {name: open_broker(name, account, markets_dir=markets_dir) for name, account in accounts.items()}


def open_those_that_open(
    accounts: Mapping[str, AccountSettings], *, markets_dir: Path | None = None
) -> dict[str, Broker]:
    """The same for a kill switch: one that can't be opened is there all the same, and says why to whatever is asked.

    Raises ConfigurationError where none can be opened.
    """
    found: dict[str, Broker] = {}
    problems: list[ConfigurationError] = []
    for name, account in accounts.items():
        try:
            found[name] = open_broker(name, account, markets_dir=markets_dir)
        except ConfigurationError as error:
            problems.append(error)
            found[name] = UnopenedBroker(name, str(error))
    if problems and len(problems) == len(found):
        raise problems[0]
    return found


async def close_brokers(brokers: Iterable[Broker]) -> None:
    """Release all at once; one that fails, or takes longer than `CLOSED_WITHIN`, keeps nothing from being closed."""
    closing = {asyncio.create_task(broker.aclose()): broker.name for broker in brokers}
    if not closing:
        return
    try:
        await asyncio.wait(closing, timeout=CLOSED_WITHIN)
    finally:
        for task, name in closing.items():
            if not task.done():
                task.cancel()
                _log.warning("%s: its adapter was not closed within %g s; nothing waits for it", name, CLOSED_WITHIN)
            elif task.cancelled() or task.exception() is not None:
                problem = "it was broken off" if task.cancelled() else type(task.exception()).__name__
                _log.warning("%s: its adapter could not be closed (%s); what was done stands", name, problem)
