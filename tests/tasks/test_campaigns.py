"""Promises 6 and 7: whatever a venue does, the book ends flat or what is left is named, and nothing is made worse.

A few seeds of each by default; `BREAKER_TEST_SCALE=full` runs 200 of the rough market and 2,000 of the rest.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from types import ModuleType

import pytest

from breaker.uuid7 import uuid7
from configuration.settings import KillSettings
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange.server import PaperExchange
from tasks.kill import flatten
from tests.helpers import FULL
from tests.tasks.campaign import RACING, SLOW, Outcome, judge, kill, kill_settings, scaled
from tests.tasks.last_resort import LastResort, scale_last_resort
from tests.tasks.mixed_books import MixedBook, mixed_book

pytestmark = [pytest.mark.usefixtures("scaled_time"), pytest.mark.timeout(14_400 if FULL else 120)]

ROUGH = f"""
{RACING}[[trouble]]
kind = "500"
probability = 0.04
[[trouble]]
kind = "504"
applied = true
probability = 0.03
[[trouble]]
kind = "drop"
probability = 0.02
[[trouble]]
kind = "drop"
applied = true
probability = 0.03
[[trouble]]
kind = "timeout"
applied = true
probability = 0.005
"""
if FULL:
    # The headers tell the end of a rate limit in whole seconds, which no clock can speed up.
    ROUGH += '[[trouble]]\nkind = "429"\nprobability = 0.02\nfirst = 1\n'
ALONE = "enforce_available = false\n"
"""A venue that would let a close cross zero: one kill switch alone must not need its help."""
MANY = SLOW + "[book]\norders = 60\npositions = 20\n"
FEW = SLOW + "[book]\norders = 8\npositions = 4\n"


NORMAL = kill_settings()


@dataclass(frozen=True)
class Case:
    toml: str
    expect: Callable[[Outcome], bool]
    """What a person would see, beside that there is no fault."""
    settings: KillSettings = NORMAL
    bulk_from: int = 100
    timeout: float = 0.5
    together: str = "alone"
    """`alone`, or two kill switches at once: of the `same incident`, or of `two incidents`."""


def flat(outcome: Outcome) -> bool:
    return outcome.said_flat and outcome.venue["is_flat"]


def stuck(*words: str, symbols: int | None = None) -> Callable[[Outcome], bool]:
    """Not flat; every one of the stuck is named with these words; that many of them."""

    def check(outcome: Outcome) -> bool:
        reasons = outcome.stuck.values()
        return (
            not outcome.said_flat
            and all(any(word in reason for word in words) for reason in reasons)
            and (len(reasons) == symbols if symbols is not None else len(reasons) > 0)
        )

    return check


PATIENT = kill_settings(deadline=600.0, stuck_after=80.0)
ROUGH_MARKETS = {
    "alone": Case(ALONE + MANY + ROUGH, flat, PATIENT),
    "alone, in bulk": Case(ALONE + MANY + ROUGH, flat, PATIENT, bulk_from=5),
    "alone, few positions": Case(ALONE + FEW + ROUGH, flat, PATIENT),
    "two of one incident": Case(MANY + ROUGH, flat, PATIENT, together="same incident"),
    "two of one incident, few positions": Case(FEW + ROUGH, flat, PATIENT, together="same incident"),
    "two incidents": Case(MANY + ROUGH, flat, PATIENT, together="two incidents"),
}
MILD = "latency_ms = 10\n[fills]\ndelay = { low = 0.0, high = 0.5 }\npartial_probability = 0.3\n"
QUICK = kill_settings(stuck_after=8.0, deadline=40.0)
SPECIFIC = {
    "two symbols halted for good": Case(
        ALONE + MILD + "[book]\norders = 20\npositions = 12\n[[halts]]\ncount = 2\n",
        lambda o: stuck("trading is halted", symbols=2)(o) and set(o.stuck) == o.left,
        QUICK,
    ),
    "two symbols that take orders and never fill them": Case(
        ALONE + MILD + '[book]\norders = 6\npositions = 4\n[[halts]]\ncount = 2\nmode = "hold"\n',
        lambda o: stuck("stood", "accepted", symbols=2)(o) and set(o.stuck) == o.left,
        QUICK,
    ),
    "a halt that ends": Case(ALONE + MILD + "[book]\npositions = 6\n[[halts]]\ncount = 3\nuntil = 6\n", flat),
    "1,200 orders": Case(ALONE + MILD + "[book]\norders = 1200\npositions = 20\norders_per_timestamp = 7\n", flat),
    "pending for a while": Case(
        ALONE + MILD + "[book]\norders = 30\npositions = 10\n"
        "pending_replace = 5\npending_replace_for = 8\npending_cancel = 5\npending_cancel_for = 9\n",
        flat,
    ),
    "pending for ever": Case(
        ALONE + MILD + "[book]\norders = 30\npositions = 10\npending_replace = 2\npending_cancel = 2\n",
        stuck("pending_replace", "pending_cancel", "open at the venue"),
        QUICK,
    ),
    "a strategy that gives up": Case(
        ALONE + MILD + "[book]\norders = 20\npositions = 8\nstrategies = 8\nstrategy_times = 4\n", flat
    ),
    "a strategy that never does": Case(
        ALONE + MILD + "[book]\norders = 20\npositions = 8\nstrategies = 4\nstrategy_times = 1000000\n",
        stuck("still trading"),
        kill_settings(stuck_after=8.0, deadline=100.0),
    ),
    "a fill 3 s after flat": Case(
        ALONE + MILD + "[book]\norders = 6\npositions = 6\n[late_fill]\nafter_flat = 3\n",
        lambda o: flat(o) and o.venue["times_flat"] == 2,
    ),
    "both legs of brackets": Case(
        ALONE + MILD + "[book]\npositions = 6\nbrackets = 6\n[cancels]\ndelay = 0.3\n"
        "[brackets]\nboth_fill_probability = 0.5\n",
        flat,
    ),
    "no day trades for a time": Case(
        ALONE + MILD + "[book]\npositions = 6\n[[exit_refusals]]\nprobability = 0.7\nuntil = 5\n", flat
    ),
    "no day trades at all": Case(
        ALONE + MILD + "[book]\norders = 6\npositions = 6\n[[exit_refusals]]\n",
        lambda o: stuck("pattern day trading", symbols=6)(o) and set(o.stuck) == o.left,
        QUICK,
    ),
    "no buying power, said later": Case(
        ALONE + MILD + '[book]\npositions = 3\n[[exit_refusals]]\nreason = "buying_power"\nlater = true\n',
        lambda o: stuck("rejected", symbols=3)(o) and max(o.venue["closes"].values()) < 25,
        QUICK,
    ),
    "the market is closed": Case(
        ALONE + MILD + '[market]\nsession = "closed"\n[book]\norders = 10\npositions = 6\n',
        stuck("queued for the open", symbols=6),
        kill_settings(stuck_after=60.0),
    ),
    "the market opens soon": Case(
        ALONE + MILD + '[market]\nsession = "closed"\nopens_after = 2\n[book]\norders = 10\npositions = 6\n', flat
    ),
    "extended hours": Case(
        ALONE + MILD + '[market]\nsession = "extended"\n[book]\npositions = 6\nfractional = 0\n', flat
    ),
    "the venue is down for a while": Case(
        ALONE + MILD + '[book]\norders = 20\npositions = 8\n[[trouble]]\nkind = "503"\nuntil = 15\n', flat
    ),
    "the venue drops everything for a while": Case(
        ALONE + MILD + '[book]\norders = 20\npositions = 8\n[[trouble]]\nkind = "drop"\nafter = 1\nuntil = 10\n', flat
    ),
    "the venue is down": Case(
        MILD + '[book]\norders = 20\npositions = 8\n[[trouble]]\nkind = "503"\n',
        lambda o: not o.said_flat and "503" in o.report.accounts[0].note,
        kill_settings(deadline=10.0),
    ),
    "orders can't be listed until they are gone": Case(
        MILD
        + '[book]\norders = 20\npositions = 8\n[[trouble]]\nkind = "503"\nroutes = ["GET /v2/orders"]\nuntil = 80\n',
        lambda o: flat(o) and o.venue["first_cancel_all_at"] < 80,
        timeout=0.2,
    ),
}


async def run(case: Case, exchange: PaperExchange, redis_url: str, seed: int) -> Outcome:
    incidents = {
        "alone": [uuid7()],
        "same incident": [uuid7()] * 2,
        "two incidents": [uuid7(), uuid7()],
    }[case.together]
    flatten.BULK_CLOSE_FROM = case.bulk_from
    kills = [
        kill(exchange, redis_url, incident_id=incident, settings=case.settings, timeout=case.timeout)
        for incident in incidents
    ]
    return await judge(exchange, scaled(case.toml, seed), kills)


async def campaign(
    name: str, case: Case, exchange: PaperExchange, redis_url: str, seeds: range, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run all the seeds, print the figures, and only then complain."""
    failures: dict[int, str] = {}
    figures = dict.fromkeys(("runs", "flat", "stuck named", "false flats", "violations"), 0)
    for seed in seeds:
        outcome = await run(case, exchange, redis_url, seed)
        faults = outcome.faults()
        if faults or not case.expect(outcome):
            notes = [account.note for report in outcome.reports for account in report.accounts]
            failures[seed] = f"{faults or 'unexpected end'}; stuck {outcome.stuck}; notes {notes}"
        figures["runs"] += 1
        figures["flat"] += flat(outcome)
        figures["stuck named"] += not outcome.said_flat and not faults
        figures["false flats"] += outcome.said_flat and not outcome.is_flat
        figures["violations"] += len(outcome.venue["violations"])
    if FULL:
        with capsys.disabled():
            print(json.dumps({"campaign": name, **figures, "seeds that fail": list(failures)}), file=sys.stderr)
    assert not failures, json.dumps(failures, indent=1)


@pytest.mark.parametrize("name", ROUGH_MARKETS)
async def test_racing_and_partial_fills_with_lost_responses_429s_and_500s(
    name: str, exchange: PaperExchange, redis_server: EmbeddedRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = range(200 if FULL else 1)
    await campaign(name, ROUGH_MARKETS[name], exchange, redis_server.url, seeds, capsys)


@pytest.mark.parametrize("name", SPECIFIC)
async def test_never_a_false_flat(
    name: str, exchange: PaperExchange, redis_server: EmbeddedRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = range(2_000 // len(SPECIFIC)) if FULL else range(1)
    await campaign(name, SPECIFIC[name], exchange, redis_server.url, seeds, capsys)


MIXED = kill_settings(stuck_after=20.0, deadline=240.0, refusal_patience=20.0)
"""The deadline is only there for hangs: whatever is left is stuck long before."""
SHARES = range(4)
RESUMED = 3
"""Times that what the open has made closable is tried again."""


def seeds_of(share: int) -> range:
    """That part of 2,000 seeds, or of a few."""
    each = 500 if FULL else 1
    return range(share * each, (share + 1) * each)


@dataclass
class Figures:
    """Of runs on mixed books; what fails is kept by its seed."""

    runs: int = 0
    flat: int = 0
    dust_named: int = 0
    stuck_named: int = 0
    false_flats: int = 0
    violations: int = 0
    closable_left: int = 0
    failures: dict[int, str] = field(default_factory=dict)

    def count(self, seed: int, mixed: MixedBook, end: Outcome | LastResort) -> None:
        venue = end.venue
        # The venue would take what stays lest it covers a short option that can't be read, and what stays with its stop
        # because the most of it covers one that can't be bought back now.
        stays = ("may be a short option", "its protective orders stay")
        held = {symbol for symbol, reason in end.stuck.items() if any(words in reason for words in stays)}
        left = [f"{qty} {symbol} could be closed" for symbol, qty in venue["closable"].items() if symbol not in held]
        faults = [*end.faults(), *left, *(set(venue["rules_broken"]) - mixed.may_break())]
        if faults:
            self.failures[seed] = f"{faults}; stuck {end.stuck}; dust {end.dust}; venue {venue}"
        self.runs += 1
        self.flat += end.said_flat
        self.dust_named += bool(end.dust)
        self.stuck_named += not end.said_flat and not faults
        self.false_flats += end.said_flat and not end.is_flat
        self.violations += len(venue["violations"])
        self.closable_left += len(left)

    def tell(self, campaign: str, capsys: pytest.CaptureFixture[str]) -> None:
        figures = asdict(self) | {"failures": list(self.failures)}
        if FULL:
            with capsys.disabled():
                print(json.dumps({"campaign": campaign, **figures}), file=sys.stderr)
        assert not self.failures, json.dumps(self.failures, indent=1)


@pytest.mark.parametrize("share", SHARES)
async def test_mixed_books_with_clock_account_and_assets_failing(
    share: int, exchange: PaperExchange, redis_server: EmbeddedRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    """No false flat, no violation, and nothing is left that the venue would have closed."""
    figures = Figures()
    for seed in seeds_of(share):
        mixed = mixed_book(seed)
        incident = uuid7()
        begin = partial(kill, exchange, redis_server.url, settings=MIXED, incident_id=incident)
        end = await judge(exchange, scaled(mixed.toml, seed), [begin()])
        # What waited for the open is resumed then, in the same incident; a run may have ended well before.
        for _ in range(RESUMED if mixed.opens_soon else 0):
            if end.venue["closable"]:
                end = Outcome([await begin()], exchange.report())
        figures.count(seed, mixed, end)
    figures.tell("mixed books", capsys)


@pytest.mark.parametrize("share", SHARES)
def test_the_last_resort_on_the_same_books(
    share: int,
    exchange: PaperExchange,
    emergency: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = Figures()
    scale_last_resort(emergency, monkeypatch)
    for seed in seeds_of(share):
        mixed = mixed_book(seed)
        exchange.restart(scaled(mixed.toml, seed))
        incident = uuid7()
        end = LastResort.run(emergency, exchange, incident)
        for _ in range(RESUMED if mixed.opens_soon else 0):  # somebody runs it again once the market has opened
            if end.venue["closable"]:
                end = LastResort.run(emergency, exchange, incident)
        figures.count(seed, mixed, end)
    figures.tell("mixed books, the last resort", capsys)
