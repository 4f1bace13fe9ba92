"""Check that each account's timer at its venue is armed where one is wanted, and say where none is to be had."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from breaker.deadline_client import AsyncDeadlineClient
from breaker.errors import BreakerError
from brokers.registry import open_account
from configuration.accounts import AccountSettings
from configuration.redis_clients import async_redis_client
from configuration.settings import ConfigurationError, Settings
from tasks.checks.measurement import Colour, Measurement
from tasks.checks.probe import Probe, measure_within
from tasks.safety_nets.configured import timer_of_account, wanted_net
from tasks.safety_nets.decision import Standing
from tasks.safety_nets.holding import EVERY, LEASE
from tasks.safety_nets.reading import read_net_records
from tasks.safety_nets.records import NetRecord, moment

_KEEP = "run `breaker services` or `python -m services.serve`"
_COLOURS = {
    Standing.ARMED: Colour.GREEN,
    Standing.OFF: Colour.YELLOW,
    Standing.LATE: Colour.RED,
    Standing.LEFT: Colour.RED,
    Standing.FIRED: Colour.RED,
}


@dataclass(frozen=True, slots=True)
class NetNow:
    """One account's timer: what is asked of it, and what is known of it. `now` is Unix time by Redis's clock."""

    account: str
    settings: AccountSettings
    record: NetRecord | None
    now: float
    unfit: str = ""
    """Why the venue's timer can't be had as configured, or at all; empty where nothing is known to be against it."""

    @property
    def is_kept(self) -> bool:
        return self.record is not None and self.record.is_kept(self.now)

    @property
    def in_words(self) -> str:
        """Where it stands, in a few words."""
        record = self.record
        if self.unfit:
            return self.unfit
        if self.settings.safety_net is None:
            return "not asked for"
        return record.standing.value if record is not None and self.is_kept else "nobody keeps it"


def unfit_of(account: AccountSettings) -> str:
    """What the table of venues has against it; empty where nothing."""
    timer = timer_of_account(account)
    if timer is None or (account.safety_net is None and timer.exists):
        return ""
    return timer.unfit(account.safety_net or timer.shortest, may_cancel_stops=account.safety_net_cancels_stops)


def measure_unfit(name: str, account: AccountSettings) -> Measurement | None:
    """Red where a timer is configured that can't be had by the table of venues; None where nothing is against it."""
    unfit = unfit_of(account)
    if account.safety_net is None or not unfit:
        return None
    return judge_net(_probe(name, account), NetNow(name, account, None, 0.0, unfit))


async def read_nets(settings: Settings) -> list[NetNow]:
    """Every account, as configured. Raises BreakerUnavailable, RedisRefused."""
    client = AsyncDeadlineClient(async_redis_client(settings), settings.redis_timeout)
    try:
        now, records = await read_net_records(client)
    finally:
        await client.close()
    found = []
    for name, account in settings.accounts.items():
        net = NetNow(name, account, records.get(name), now, unfit_of(account))
        if account.safety_net is not None and not net.unfit and not net.is_kept:
            net = replace(net, unfit=await _unfit_by_adapter(settings, name))
        found.append(net)
    return found


async def _unfit_by_adapter(settings: Settings, name: str) -> str:
    """Asked only where nobody keeps a timer, as some adapters are slow to import."""
    try:
        broker = await asyncio.to_thread(open_account, settings, name)
    except ConfigurationError as error:
        return str(error)
    try:
        wanted = wanted_net(name, settings.accounts[name], broker)
        return "" if wanted is None else wanted.unfit
    finally:
        await broker.aclose()


async def measure_safety_nets(settings: Settings) -> list[Measurement]:
    """Of each account whose venue's timer is wanted, or whose venue has none. Never raises."""
    asked = {name: account for name, account in settings.accounts.items() if account.safety_net is not None}
    if not asked:
        return []
    found: dict[str, NetNow] = {}
    problem = ""
    try:
        found = {each.account: each for each in await read_nets(settings)}
    except BreakerError as error:
        problem = str(error)

    async def measure(name: str, probe: Probe) -> Measurement:
        return probe.failed(problem) if problem else judge_net(probe, found[name])

    return [
        await measure_within(probe, settings.redis_timeout + 2, measure(name, probe))
        for name, probe in _probes(asked).items()
    ]


def judge_net(probe: Probe, net: NetNow) -> Measurement:
    """Pure."""
    record, settings = net.record, net.settings
    if net.unfit:
        return probe.measured(
            "none", Colour.RED, f"{net.unfit[:1].upper()}{net.unfit[1:]}. See accounts.{net.account}: safety_net."
        )
    if record is None or not net.is_kept:
        return probe.measured("nobody keeps it", Colour.RED, f"The venue cancels nothing, or soon everything: {_KEEP}.")
    value = _value(record)
    colour, problem = _COLOURS[record.standing], _problem(record)
    if not problem and not record.verified:
        colour, problem = Colour.YELLOW, "The venue does not say itself that the timer runs."
    least = handed_over_within(settings)
    if not problem and settings.safety_net is not None and settings.safety_net < least:
        colour = Colour.YELLOW
        problem = f"The loss of one host lets the venue cancel before another takes over: give it {least:g} s or more."
    return probe.measured(value, colour, problem)


def _value(record: NetRecord) -> str:
    """Where it stands, until when it is armed, when it was renewed and when it last fired."""
    until, renewed, fired = moment(record.armed_until), moment(record.renewed_at), moment(record.fired_at)
    return ", ".join(
        (
            record.standing.value,
            *([] if until is None else [f"until {until:%H:%M:%S} UTC"]),
            *([] if renewed is None else [f"renewed {renewed:%H:%M:%S}"]),
            *([] if fired is None else [f"last fired {fired:%Y-%m-%d %H:%M:%S}"]),
        )
    )


def handed_over_within(settings: AccountSettings) -> float:
    """Seconds that a timer needs for another process to take over before it fires, however late in its time."""
    return 2 * (LEASE + 2 * EVERY + settings.request_timeout)


def _problem(record: NetRecord) -> str:
    because = "; ".join(filter(None, (record.why, record.problem)))
    said = f": {because}." if because else "."
    if record.standing is Standing.LATE:
        return f"The venue's timer of {record.account} was not renewed in time{said} Look at the venue."
    if record.standing is Standing.LEFT:
        return f"It is not renewed, so that the venue cancels{said}"
    if record.standing is Standing.FIRED:
        return f"The venue has cancelled the orders of {record.account}, and protects nothing now{said}"
    if record.standing is Standing.OFF:
        return f"The venue cancels nothing{said} To arm it: `breaker safety arm {record.account} --reason WHY`."
    return ""


def _probes(asked: Mapping[str, AccountSettings]) -> dict[str, Probe]:
    return {name: _probe(name, account) for name, account in asked.items()}


def _probe(name: str, account: AccountSettings) -> Probe:
    return Probe(f"safety-net/{name}", f"armed for {account.safety_net:g} s", "what its keeper says in Redis")
