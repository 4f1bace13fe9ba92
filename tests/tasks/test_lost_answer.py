"""At a venue that would take the same close twice, or knows no client order ids, it is looked for before it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import redis
from pydantic import SecretStr

from breaker.orders import Fill, Order, OrderStatus, OrderType, Side, TimeInForce
from brokers.protocol import Capabilities, ClientOrderIds, CloseOrder, CloseOutcome, CloseResult, Listed
from configuration.settings import Settings
from sandbox.embedded_redis import EmbeddedRedis
from tasks.kill.close_claims import CloseClaims
from tasks.kill.flatten import POSITION_LAG, Flattening
from tasks.kill.lost_answer import LOOKED_FOR
from tasks.kill.memory import client_order_id
from tests.tasks.timed_venue import ABLE, INCIDENT, NAME, StillClock, TimedVenue, Watched, position, watched

TWICE = replace(ABLE, client_order_ids=ClientOrderIds(128, ABLE.client_order_ids.alphabet, unique=False))
"""Interactive Brokers, for one: `orderRef` may be anything, any number of times."""
NAMELESS = replace(ABLE, client_order_ids=ClientOrderIds(0, ""), looks_up_orders=False, fills=True)
FIRST, SECOND = (client_order_id(INCIDENT, "AAPL", number) for number in (1, 2))
LOST = CloseResult("AAPL", CloseOutcome.UNKNOWN, reason="no answer")
D = Decimal


class Listing(TimedVenue):
    """Lists executions, too."""

    executed: tuple[Fill, ...] = ()

    async def fills(self, since: datetime) -> Listed[Fill]:
        self.asked.append((self.time.now - self.started, "fills"))
        return Listed(self.executed)


def close(name: str, status: OrderStatus = OrderStatus.FILLED, filled: str = "10") -> Order:
    return Order(f"id-{name}", name, "AAPL", Side.SELL, D(10), D(filled), status, OrderType.MARKET, TimeInForce.DAY)


async def flattened(venue: TimedVenue, deadline: float = 90.0) -> tuple[Watched, bool]:
    account = watched(venue, deadline=deadline, stuck_after=80.0, escalate_after=80.0)
    return account, await Flattening(account.run).until_flat()


def lost(venue: TimedVenue, then: Callable[[], None] = lambda: None, times: int = 1) -> None:
    """The answers to the first closes are lost; `then` is what they did all the same."""

    def answer(request: CloseOrder) -> CloseResult:
        if len(venue.closes) <= times:
            then()
            return LOST
        venue.holdings = ()
        return CloseResult(request.symbol, CloseOutcome.ACCEPTED)

    venue.answer = answer


async def test_a_close_that_arrived_though_its_answer_was_lost_is_not_sent_again(clock: StillClock) -> None:
    venue = TimedVenue(clock, holdings=[position()], capabilities=TWICE)
    lost(venue, lambda: setattr(venue, "ended", [close(FIRST)]))
    venue.changes = {2.0: {"holdings": []}}
    _, flat = await flattened(venue)
    assert flat and [each.client_order_id for each in venue.closes] == [FIRST]


async def test_a_close_that_never_arrived_is_looked_for_and_then_sent_again_by_the_same_name(clock: StillClock) -> None:
    venue = TimedVenue(clock, holdings=[position()], capabilities=TWICE)
    lost(venue)
    _, flat = await flattened(venue)
    assert flat and [each.client_order_id for each in venue.closes] == [FIRST, FIRST]
    first, second = venue.when("close")
    assert second - first >= LOOKED_FOR and len(venue.when("order")) > 3


async def test_where_closes_only_reduce_it_is_looked_for_no_longer_than_positions_lag(clock: StillClock) -> None:
    venue = TimedVenue(clock, holdings=[position()], capabilities=replace(TWICE, reduce_only=True))
    lost(venue)
    _, flat = await flattened(venue)
    first, second = venue.when("close")
    assert flat and POSITION_LAG <= second - first < LOOKED_FOR


async def test_what_a_close_with_a_lost_answer_left_is_closed_under_the_next_name(clock: StillClock) -> None:
    venue = TimedVenue(clock, holdings=[position()], capabilities=TWICE)

    def partly() -> None:
        venue.ended = [close(FIRST, OrderStatus.CANCELED, "4")]
        venue.holdings = [position(quantity="6")]

    lost(venue, partly)
    _, flat = await flattened(venue)
    assert flat and [(each.client_order_id, each.quantity) for each in venue.closes] == [(FIRST, D(10)), (SECOND, D(6))]


async def test_a_close_that_another_process_has_sent_is_found_before_the_same_one_is_sent(clock: StillClock) -> None:
    venue = TimedVenue(clock, holdings=[position()], capabilities=TWICE, ended=[close(FIRST)])
    venue.changes = {3.0: {"holdings": []}}
    _, flat = await flattened(venue)
    assert flat and venue.closes == [], "the position lags behind the other one's fill"


async def test_without_names_the_fills_say_that_a_close_arrived(clock: StillClock) -> None:
    venue = Listing(clock, holdings=[position()], capabilities=NAMELESS)

    def filled() -> None:
        venue.executed = (Fill("f1", "o1", "AAPL", Side.SELL, D(10), D(50), datetime(2026, 11, 24, 17, tzinfo=UTC)),)

    lost(venue, filled)
    venue.changes = {4.0: {"holdings": []}}
    _, flat = await flattened(venue)
    assert flat and len(venue.closes) == 1
    assert venue.when("order") == [] and venue.when("fills")


async def test_without_names_a_close_that_no_list_shows_is_looked_for_and_then_sent_again(
    clock: StillClock,
) -> None:
    venue = Listing(clock, holdings=[position()], capabilities=NAMELESS)
    somebody_elses = Fill("f1", "o1", "AAPL", Side.BUY, D(10), D(50), datetime(2026, 11, 24, 17, tzinfo=UTC))
    venue.executed = (somebody_elses, replace(somebody_elses, symbol="MSFT", side=Side.SELL))
    lost(venue)
    _, flat = await flattened(venue)
    first, second = venue.when("close")
    assert flat and second - first >= LOOKED_FOR


async def test_without_names_a_close_that_works_is_known_by_the_venues_id_and_left_alone(clock: StillClock) -> None:
    venue = Listing(clock, holdings=[position()], capabilities=NAMELESS)

    def answer(request: CloseOrder) -> CloseResult:
        working = replace(close("", OrderStatus.NEW, "0"), id="v1")
        venue.orders = [working]
        venue.changes = {9.0: {"orders": [], "holdings": []}}
        return CloseResult(request.symbol, CloseOutcome.ACCEPTED, working)

    venue.answer = answer
    account, flat = await flattened(venue)
    assert flat and len(venue.closes) == 1 and venue.canceled == []
    assert account.run.name == NAME


@pytest.mark.parametrize(("able", "asked"), [(ABLE, 0), (TWICE, 1), (replace(TWICE, reduce_only=True), 0)])
async def test_only_a_venue_where_a_second_close_could_turn_the_position_over_is_asked_before_each(
    clock: StillClock, able: Capabilities, asked: int
) -> None:
    venue = TimedVenue(clock, holdings=[position()], capabilities=able)
    _, flat = await flattened(venue)
    assert flat and len(venue.when("order")) == asked


# Two kill switches at once


def configured(redis_server: EmbeddedRedis) -> Settings:
    return Settings(redis_url=SecretStr(redis_server.url))


Claims = Callable[[Settings, str], CloseClaims]


@pytest.fixture
async def claims() -> AsyncIterator[Claims]:
    """Makes those of a run, and releases their connections."""
    made: list[CloseClaims] = []

    def of(settings: Settings, run_id: str) -> CloseClaims:
        made.append(CloseClaims(settings, run_id))
        return made[-1]

    yield of
    for each in made:
        await each.aclose()


async def test_every_close_of_a_run_is_claimed_over_one_connection(
    claims: Claims, redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    mine = claims(configured(redis_server), "mine")
    await mine.claim(NAME, "first")
    before = redis_client.info("stats")["total_connections_received"]
    assert [await mine.claim(account, f"close-{n}") for account in ("A", "B") for n in range(5)] == [True] * 10
    assert redis_client.info("stats")["total_connections_received"] == before


async def test_of_two_runs_that_find_the_same_close_missing_one_sends_it(
    clock: StillClock, claims: Claims, redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    settings = configured(redis_server)
    other = claims(settings, "other")
    assert await other.claim(NAME, FIRST) and await other.claim(NAME, FIRST), "its own it may send again"
    venue = TimedVenue(clock, holdings=[position()], capabilities=TWICE)
    venue.changes = {3.0: {"holdings": []}}
    account = watched(venue, deadline=60.0, stuck_after=50.0)
    assert await Flattening(account.run, claim=claims(settings, "mine").of(NAME)).until_flat()
    assert venue.closes == [], "the other one sends it"


async def test_what_another_run_claimed_and_never_sent_is_closed_under_the_next_name(
    clock: StillClock, claims: Claims, redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    settings = configured(redis_server)
    assert await claims(settings, "dead").claim(NAME, FIRST)
    venue = TimedVenue(clock, holdings=[position()], capabilities=TWICE)
    account = watched(venue, deadline=60.0, stuck_after=50.0)
    assert await Flattening(account.run, claim=claims(settings, "mine").of(NAME)).until_flat()
    assert [close.client_order_id for close in venue.closes] == [SECOND]
    assert venue.when("close")[0] >= POSITION_LAG


async def test_without_redis_closes_go_on(clock: StillClock, claims: Claims) -> None:
    settings = Settings(redis_url=SecretStr("redis://127.0.0.1:1/0"))
    venue = TimedVenue(clock, holdings=[position()], capabilities=TWICE)
    account = watched(venue, deadline=60.0)
    assert await Flattening(account.run, claim=claims(settings, "mine").of(NAME)).until_flat()
    assert len(venue.closes) == 1 and len(venue.when("order")) == 1, "the venue is asked instead"


async def test_the_venue_is_not_asked_for_what_a_claim_tells(
    clock: StillClock, claims: Claims, redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    venue = TimedVenue(clock, holdings=[position()], capabilities=TWICE)
    account = watched(venue, deadline=60.0)
    assert await Flattening(account.run, claim=claims(configured(redis_server), "mine").of(NAME)).until_flat()
    assert len(venue.closes) == 1 and venue.when("order") == []
