"""Check that each account's venue answers and takes its credentials."""

from __future__ import annotations

from datetime import UTC, datetime

from brokers.missing import missing_for
from brokers.registry import open_account
from configuration.settings import ConfigurationError, Settings
from tasks.amounts import figure
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, given_up_after, measure_within
from tasks.doctor.redis_server import CLOCKS_APART
from tasks.kill.venue_lock import VenueLock

_KEYS = {"ccxt": "exchange, market, urls, key_id, secret_key", "ib": "host, port, client_id, ib_account"}
"""Which keys of an account decide whether it is reached, by its adapter; Alpaca's of any other."""


async def measure_venue(settings: Settings, name: str, lock: VenueLock | None = None) -> Measurement:
    """Whether the venue takes the credentials and its clock is ours; reads only.

    `lock` is what is known of the account's lock at the venue: one that a kill switch has set is as it should be.
    """
    account = settings.accounts[name]
    probe = Probe(f"venue/{name}", "answers, takes the credentials", f"account and clock at {account.place}")
    if missing := missing_for(account):
        return probe.failed(f"accounts.{name}: {missing}{'' if missing.endswith('?') else '.'}")

    async def measure() -> Measurement:
        broker = open_account(settings, name)
        try:
            held, clock = await broker.account(), await broker.clock()
        finally:
            await broker.aclose()
        apart = (clock.now - datetime.now(UTC)).total_seconds()
        equity = figure(held.equity, held.currency)
        value = f"equity {equity} {held.currency}, market {'open' if clock.is_open else 'closed'}"
        suspended = "" if lock is not None and lock.ours else held.trading_suspended
        if blocked := held.trading_blocked or suspended:
            return probe.measured(value, Colour.RED, f"{blocked}. The kill switch could not close there.")
        if abs(apart) > CLOCKS_APART:
            problem = f"Its clock is {apart:+.1f} s from this host's: let this host keep time by NTP."
            return probe.measured(value, Colour.YELLOW, problem)
        if held.trading_suspended:
            return probe.measured(value, Colour.YELLOW, f"{lock}.")
        return probe.measured(value)

    found = await measure_within(probe, given_up_after(account.request_timeout), measure())
    if found.colour is Colour.RED and f"accounts.{name}." not in found.problem:
        keys = _KEYS.get(account.adapter, "base_url, key_id, secret_key")
        problem = found.problem if found.problem.endswith("?") else f"{found.problem.rstrip('.')}."
        return probe.failed(f"{problem} See accounts.{name}: {keys}.")
    return found


def measure_venue_lock(settings: Settings) -> Measurement:
    """Whether accounts that are flat are locked where their venue can do that; asks no venue."""
    probe = Probe("venue-lock", "on where a venue has one", "kill.venue_lock, and what the accounts' adapters can do")
    lockable = [name for name in settings.accounts if _suspends_trading(settings, name)]
    if settings.kill.venue_lock or not lockable:
        return probe.measured("on" if settings.kill.venue_lock else "no venue has one")
    problem = (
        f"After a kill switch the venue could refuse whatever still sends orders to {', '.join(lockable)}, until the "
        "reset: recommended, kill.venue_lock = true."
    )
    return probe.measured("off", Colour.YELLOW, problem)


def _suspends_trading(settings: Settings, name: str) -> bool:
    try:
        return open_account(settings, name).capabilities.suspends_trading
    except ConfigurationError:
        return False  # the account's own check says that no such adapter is installed


def no_account() -> Measurement:
    probe = Probe("venues", "configured", "accounts in the configuration")
    return probe.measured("none", Colour.YELLOW, "The kill switch can only halt: write an [accounts.NAME] for each.")
