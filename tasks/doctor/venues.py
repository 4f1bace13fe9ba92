"""Check that each account's venue answers and takes its credentials."""

from __future__ import annotations

from datetime import UTC, datetime

from brokers.registry import open_broker
from configuration.settings import AccountSettings
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, measure_within
from tasks.doctor.redis_server import CLOCKS_APART


async def measure_venue(name: str, account: AccountSettings) -> Measurement:
    """Whether the venue takes the credentials and its clock is ours; reads only."""
    probe = Probe(f"venue/{name}", "answers, takes the credentials", f"account and clock at {account.base_url}")

    async def measure() -> Measurement:
        broker = open_broker(name, account)
        try:
            held, clock = await broker.account(), await broker.clock()
        finally:
            await broker.aclose()
        apart = (clock.now - datetime.now(UTC)).total_seconds()
        value = f"equity {held.equity} {held.currency}, market {'open' if clock.is_open else 'closed'}"
        if held.trading_blocked:
            return probe.measured(value, Colour.RED, f"{held.trading_blocked}. The kill switch could not close there.")
        if abs(apart) > CLOCKS_APART:
            problem = f"Its clock is {apart:+.1f} s from this host's: let this host keep time by NTP."
            return probe.measured(value, Colour.YELLOW, problem)
        return probe.measured(value)

    found = await measure_within(probe, 2 * account.request_timeout + 1, measure())
    if found.colour is Colour.RED:
        fix = f"See accounts.{name}: base_url, key_id, secret_key."
        return probe.failed(f"{found.problem.rstrip('.')}. {fix}")
    return found


def no_account() -> Measurement:
    probe = Probe("venues", "configured", "accounts in the configuration")
    return probe.measured("none", Colour.YELLOW, "The kill switch can only halt: write an [accounts.NAME] for each.")
