"""What is pushed to pages: the newest of each topic, to everybody, for as long as their session holds."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import redis

from breaker import CircuitBreaker
from console.auth.permissions import Role
from console.live.broadcast import Broadcast, encode
from console.live.poller import Poller, Sample
from console.pages import events
from sandbox.embedded_redis import EmbeddedRedis
from tests.console.conftest import MakeSettings
from tests.console.harness import Console, Visitor
from tests.helpers import eventually


@pytest.fixture
def breaker(redis_client: redis.Redis) -> CircuitBreaker:
    made = CircuitBreaker(redis_client)
    made.initialize_state()
    return made


class Listener:
    """A page that listens: the events it got, each with its time."""

    def __init__(self, visitor: Visitor, topics: str) -> None:
        self.events: list[tuple[float, str, str]] = []
        self.ended = threading.Event()
        self._visitor = visitor
        self._topics = topics
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        topic, data = "", ""
        try:
            with self._visitor.stream("GET", "/events", params={"topics": self._topics}, timeout=20) as stream:
                for line in stream.iter_lines():
                    name, _, value = line.partition(": ")
                    if name == "event":
                        topic, data = value, ""
                    elif name == "data":
                        data += value
                    elif not line and topic:
                        self.events.append((time.monotonic(), topic, data))
        finally:
            self.ended.set()

    def heard(self, topic: str, text: str = "") -> float | None:
        """When it first heard of it."""
        return next((at for at, name, data in self.events if name == topic and text in data), None)


def test_a_trip_from_anywhere_is_on_every_page_soon(console: Console, breaker: CircuitBreaker) -> None:
    listeners = [Listener(console.visitor(Role.VIEWER), "banner,state:global,history:global") for _ in range(3)]
    for listener in listeners:
        eventually(lambda listener=listener: listener.heard("banner", "OPEN") is not None)  # type: ignore[misc]
    tripped_at = time.monotonic()
    breaker.trip("MANUAL")
    for listener in listeners:
        for topic in ("banner", "state:global", "history:global"):
            eventually(lambda listener=listener, topic=topic: listener.heard(topic, "TRIP") is not None)  # type: ignore[misc]
        at = listener.heard("banner", "TRIPPED")
        assert at is not None
        assert at - tripped_at < 2.0


def test_beats_come_while_the_state_is_read(console: Console, breaker: CircuitBreaker) -> None:
    listener = Listener(console.visitor(Role.VIEWER), "banner")
    eventually(lambda: len([1 for _, topic, _ in listener.events if topic == "beat"]) >= 3)


def test_a_redis_that_goes_away_is_shown_as_unknown(own_server: EmbeddedRedis, make_settings: MakeSettings) -> None:
    CircuitBreaker(redis.Redis.from_url(own_server.url)).initialize_state()
    with Console(make_settings(own_server.url)) as console:
        listener = Listener(console.visitor(Role.VIEWER), "banner")
        eventually(lambda: listener.heard("banner", "OPEN") is not None)
        own_server.stop()
        eventually(lambda: listener.heard("banner", "UNKNOWN") is not None)
        own_server.start()


def test_a_stream_ends_with_its_session(
    console: Console, breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "RECHECK_SESSION", 0.2)
    viewer = console.visitor(Role.VIEWER)
    listener = Listener(viewer, "banner")
    eventually(lambda: listener.heard("banner") is not None)
    console.identities.users.set_role("the_viewer", Role.OPERATOR)
    eventually(listener.ended.is_set)
    assert listener.heard("signed-out") is not None


def test_nobody_listens_without_signing_in(console: Console) -> None:
    assert console.visitor().get("/events").status_code == 401


async def test_a_slow_listener_gets_the_last_word_and_none_twice() -> None:
    broadcast = Broadcast()
    listening = broadcast.listen(["a", "b"])
    broadcast.publish("a", "1")
    broadcast.publish("b", "1")
    broadcast.publish("c", "not asked for")
    assert await anext(listening) == encode("a", "1") + encode("b", "1")
    for n in range(2, 100):
        broadcast.publish("a", str(n))
    assert await anext(listening) == encode("a", "99")
    broadcast.close()
    assert [data async for data in listening] == []
    assert broadcast.listeners == 0


def test_lines_of_a_piece_stay_one_event() -> None:
    assert encode("x", "a\nb\r\nc") == b"event: x\ndata: a\ndata: b\ndata: c\n\n"
    assert encode("x", "") == b"event: x\ndata: \n\n"


async def test_what_nobody_watches_is_not_read() -> None:
    reads = 0

    async def read() -> int:
        nonlocal reads
        reads += 1
        return reads

    published: list[Sample[int]] = []
    poller: Poller[int] = Poller(read, 0.01, published.append)
    running = asyncio.create_task(poller.run())
    for _ in range(10):
        await asyncio.sleep(0)
    assert reads == 0
    assert poller.watch() is None
    async with asyncio.timeout(5):
        while reads < 3:
            await asyncio.sleep(0.005)
    assert [sample.value for sample in published[:2]] == [1, 2]
    running.cancel()
