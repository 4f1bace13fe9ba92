"""Trips while Redis is away, and trips that Redis doesn't confirm: kept, said honestly, and made once."""

from __future__ import annotations

import redis

from breaker import CircuitBreaker, State
from breaker.events import TransitionEvent
from console.auth.permissions import Role
from sandbox.embedded_redis import EmbeddedRedis
from tests.console.conftest import MakeSettings
from tests.console.harness import REASON, Console
from tests.helpers import eventually

TRIP = {"reason": REASON, "acknowledge": "yes"}


def trips(breaker: CircuitBreaker) -> list[TransitionEvent]:
    return [event for event in breaker.get_history() if event.transition == "TRIP"]


def test_promise_5_a_trip_waits_on_the_consoles_host_and_is_made_once(
    own_server: EmbeddedRedis, make_settings: MakeSettings
) -> None:
    breaker = CircuitBreaker(redis.Redis.from_url(own_server.url))
    breaker.initialize_state()
    with Console(make_settings(own_server.url, redis_timeout=0.3)) as console:
        operator, api = console.visitor(Role.OPERATOR), console.api(Role.OPERATOR)
        own_server.stop()
        page = operator.submit("/circuit-breaker/trip", TRIP)
        assert page.url.path == "/circuit-breaker"
        assert "pending" in page.text and REASON in page.text and "closed by their own leases" in page.text
        body = {"reason": "prices are wrong", "acknowledge": True}
        for _ in range(2):
            answer = api.post("/circuit-breaker/trip", json=body, headers={"Idempotency-Key": "k"})
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/not-halted")
            assert answer.json()["pending"] is True

        own_server.start()
        eventually(lambda: len(trips(breaker)) == 2)
        eventually(lambda: "<b>pending</b>" not in operator.get("/circuit-breaker").text)
        events = trips(breaker)
        assert {(event.source, event.by, event.ip_address) for event in events} == {
            ("console", "the_operator", "127.0.0.1"),
            ("api", "the_operator", "127.0.0.1"),
        }
        assert len({event.incident_id for event in events}) == 1
        assert breaker.get_state() is State.TRIPPED


def test_a_trip_that_cannot_be_kept_either_says_so(own_server: EmbeddedRedis, make_settings: MakeSettings) -> None:
    settings = make_settings(own_server.url, redis_timeout=0.3)
    with Console(settings) as console:
        operator = console.visitor(Role.OPERATOR)
        own_server.stop()
        settings.pending_trips_dir.write_text("no directory")
        page = operator.submit("/circuit-breaker/trip", TRIP)
        assert page.status_code == 503 and "nothing will make it later" in page.text
        own_server.start()


def test_a_trip_that_redis_does_not_confirm_is_a_trip_and_says_so(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, make_settings: MakeSettings
) -> None:
    CircuitBreaker(redis_client).initialize_state()
    settings = make_settings(redis_server.url, trip_durability="replicas", redis_timeout=0.5)
    with Console(settings) as console:
        page = console.visitor(Role.OPERATOR).submit("/circuit-breaker/trip", TRIP)
        assert "trip_durability" in page.text and "TRIPPED" in page.text
        api = console.api(Role.OPERATOR)
        body = {"reason": "prices are wrong", "acknowledge": True}
        assert "0 of 1 replicas" in api.post("/circuit-breaker/trip", json=body).json()["unconfirmed"]
        started = api.post("/kill-switch", json={**body, "confirm": "FLATTEN"}).json()
        assert "0 of 1 replicas" in started["unconfirmed"] and started["halted"]
