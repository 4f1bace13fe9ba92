"""Check that all that a kill switch asks of an account can be had with its keys: it reads, and places no order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from brokers.instrument_store import InstrumentStore
from brokers.missing import missing_for
from brokers.protocol import SHORTEST_CLIENT_ORDER_ID, Broker
from brokers.registry import open_account
from configuration.accounts import AccountSettings
from configuration.settings import ConfigurationError, Settings
from tasks.checks.measurement import Colour, Measurement, worst
from tasks.checks.probe import NOT_MEASURED, Probe, describe_error, given_up_after, measure_within

LATELY = timedelta(days=1)
"""How far back executions and transfers are asked for, to see that they can be."""

Question = Callable[[Broker, Probe], Awaitable[Measurement]]


async def measure_access(settings: Settings, name: str, keep: InstrumentStore | None = None) -> list[Measurement]:
    """What a kill switch needs of the account, one measurement for each part; `keep` takes what is told of instruments.

    Nothing where something is missing for its adapter here, which `measure_venue` tells. Raises ConfigurationError
    where it can't be opened.
    """
    account = settings.accounts[name]
    if missing_for(account):
        return []
    broker = open_account(settings, name)
    questions = [*_questions(broker), *([] if keep is None else [("instruments", "told", _instruments(keep))])]
    try:
        return await asyncio.gather(*(_measure(name, account, broker, *question) for question in questions))
    finally:
        await broker.aclose()


async def measure_access_in_short(settings: Settings, name: str) -> Measurement:
    """The same as one measurement; what is told of instruments isn't kept."""
    probe = Probe(f"venue/{name}/access", "all that a kill needs", "orders, positions, look-ups and rights, no order")
    try:
        parts = await measure_access(settings, name)
    except ConfigurationError as error:
        return probe.failed(describe_error(error))
    colour = worst(parts)
    problems = " ".join(dict.fromkeys(part.problem for part in parts if part.problem and part.colour is colour))
    told = [part.value for part in parts if part.value != NOT_MEASURED and part.name.endswith(_IN_SHORT)]
    return probe.measured(", ".join(told), colour, problems) if told else probe.failed(problems)


def _questions(broker: Broker) -> Sequence[tuple[str, str, Question]]:
    """The parts of what a kill switch asks for, each with what it ought to be; most needed first."""
    able = broker.capabilities
    asked: list[tuple[str, str, Question]] = [
        ("orders", "listed, and readable", _orders),
        ("positions", "listed, and readable", _positions),
        ("keys", "may cancel and close", _rights),
        ("look-up", "an order by its client order id", _look_up),
    ]
    if able.fills:
        asked.append(("fills", "listed", _fills))
    if able.transfers:
        asked.append(("transfers", "listed", _transfers))
    if able.safety_net:
        asked.append(("safety-net", "told", _safety_net))
    return asked


_IN_SHORT = ("/orders", "/positions", "/keys")
BESIDE = " Closing does without it."
_BESIDE = ("fills", "transfers", "safety-net", "instruments")
"""Not needed to close anything: without them less is known afterwards."""


async def _measure(
    name: str,
    account: AccountSettings,
    broker: Broker,
    part: str,
    limit: str,
    ask: Question,
) -> Measurement:
    probe = Probe(f"venue/{name}/{part}", limit, "asked of the venue")
    found = await measure_within(probe, given_up_after(account.request_timeout), ask(broker, probe))
    if found.colour is Colour.RED and part in _BESIDE:
        return replace(found, colour=Colour.YELLOW, problem=f"{found.problem}{BESIDE}")
    return found


async def _orders(broker: Broker, probe: Probe) -> Measurement:
    listed = await broker.open_orders()
    value = f"{len(listed)} open orders"
    if listed.unreadable:
        return probe.measured(value, Colour.RED, f"{listed.unreadable[0]}. Its symbol waits for it: ask the venue.")
    return probe.measured(value)


async def _positions(broker: Broker, probe: Probe) -> Measurement:
    listed = await broker.positions()
    held = sum(position.quantity != 0 for position in listed.items)
    value = f"{held + len(listed.unreadable)} positions"
    if listed.unreadable:
        return probe.measured(value, Colour.RED, f"{listed.unreadable[0]}. It could not be closed: ask the venue.")
    return probe.measured(value)


async def _rights(broker: Broker, probe: Probe) -> Measurement:
    missing = await broker.not_permitted()
    if missing:
        problem = f"{'; '.join(missing)}. Give the account keys that may trade."
        return probe.measured("may not all that a kill needs", Colour.RED, problem)
    return probe.measured("the venue tells of nothing that they may not")


async def _look_up(broker: Broker, probe: Probe) -> Measurement:
    ids = broker.capabilities.client_order_ids
    if not ids.longest:
        return probe.measured("the venue knows no client order ids")
    await broker.order(f"{time.time_ns()}"[:SHORTEST_CLIENT_ORDER_ID])  # which nobody has given to an order
    return probe.measured("answered")


async def _fills(broker: Broker, probe: Probe) -> Measurement:
    return probe.measured(f"{len(await broker.fills(datetime.now(UTC) - LATELY))} since yesterday")


async def _transfers(broker: Broker, probe: Probe) -> Measurement:
    return probe.measured(f"{len(await broker.transfers(datetime.now(UTC) - LATELY))} since yesterday")


async def _safety_net(broker: Broker, probe: Probe) -> Measurement:
    net = await broker.safety_net()
    if net.armed_until is None and not net.verified:  # many tell it only in the answer to arming it
        return probe.measured("the venue does not tell whether it is armed")
    return probe.measured(f"armed until {net.armed_until:%H:%M:%S} UTC" if net.armed_until else "not armed")


def _instruments(keep: InstrumentStore) -> Question:
    async def ask(broker: Broker, probe: Probe) -> Measurement:
        symbols = sorted({position.symbol for position in (await broker.positions()).items})
        told = await broker.instruments(symbols) if symbols else {}
        await asyncio.to_thread(keep.add, told)
        return probe.measured(f"{len(told)} of {len(symbols)} have rules of their own; kept for a kill")

    return ask
