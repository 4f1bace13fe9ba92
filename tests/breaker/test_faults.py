"""Redis down, hung, restarted, busy, or answering into the void: every call ends in time and says what holds."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff

from breaker import (
    AsyncCircuitBreaker,
    BreakerUnavailable,
    CircuitBreaker,
    InvalidInput,
    RedisRefused,
    State,
    TransitionEvent,
    open_async_redis,
)
from breaker.keys import Keys
from breaker.uuid7 import uuid7
from proofs.proxy import Fault, FaultProxy
from sandbox.embedded_redis import EmbeddedRedis
from tests.helpers import BUSY, eventually, in_time

KEYS = Keys.of()
SLACK = BUSY


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What `call` returned or raised, and the seconds it took."""
    begin = time.monotonic()
    try:
        result = call()
    except BreakerUnavailable as error:
        result = error
    return result, time.monotonic() - begin


@pytest.fixture
def proxy(redis_server: EmbeddedRedis, redis_client: Any) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", redis_server.port)) as made:
        yield made


def know_the_scripts(make_breaker: Any, proxy: FaultProxy) -> None:
    """So that the server is not asked twice for one call: by the script's hash, and then by its text."""
    other = make_breaker(proxy.redis_url, scope="account:OTHER", reset_interval=0)
    other.trip("MANUAL")
    other.reset("ada")


@pytest.fixture
def nobody() -> str:
    """The URL of a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"redis://:s3cret@127.0.0.1:{probe.getsockname()[1]}/0"


def test_promise_10_refused_connections_end_in_time_and_nothing_has_happened(make_breaker: Any, nobody: str) -> None:
    cb = make_breaker(nobody, timeout=0.3)
    event_id = uuid7()
    error, took = timed(lambda: cb.trip("MANUAL", event_id=event_id))
    assert isinstance(error, BreakerUnavailable)
    assert error.may_have_happened is False
    assert error.event_id == event_id
    assert 0.2 < took < 0.3 + SLACK, "it tried until its deadline, and no longer"
    assert "\n" not in str(error) and "127.0.0.1" in str(error) and "Nothing was changed" in str(error)
    assert "s3cret" not in str(error)


def test_promise_1_an_unreachable_redis_is_closed_and_reading_does_not_raise(make_breaker: Any, nobody: str) -> None:
    cb = make_breaker(nobody, timeout=0.2)
    status, took = timed(cb.get_status)
    assert status.state is State.UNKNOWN
    assert "127.0.0.1" in status.problem and "s3cret" not in status.problem
    assert took < 0.2 + SLACK
    assert cb.is_tripped()
    with pytest.raises(BreakerUnavailable):
        cb.get_history()


@pytest.mark.parametrize("connected", [True, False])
def test_promise_10_a_hung_redis_ends_in_time_and_a_trip_that_was_sent_may_have_happened(
    make_breaker: Any, own_server: EmbeddedRedis, connected: bool
) -> None:
    cb = make_breaker(own_server.url, timeout=0.6)
    if connected:
        cb.initialize_state()
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGSTOP)
    event_id = uuid7()
    error, took = timed(lambda: cb.trip("MANUAL", event_id=event_id))
    status, took_reading = timed(cb.get_status)
    os.kill(own_server.pid, signal.SIGCONT)
    assert isinstance(error, BreakerUnavailable)
    assert error.may_have_happened is connected, "without a greeting nothing is sent"
    assert took < 0.6 + SLACK
    assert (event_id in str(error)) is connected
    assert status.state is State.UNKNOWN
    assert took_reading < 0.6 + SLACK
    assert cb.trip("MANUAL", event_id=event_id).state is State.TRIPPED
    assert [e.event_id for e in cb.get_history() if e.transition == "TRIP"] == [event_id], (
        "once, however often it was sent"
    )


def test_a_reply_that_is_lost_is_asked_for_again_under_the_same_event_id(
    make_breaker: Any, proxy: FaultProxy, redis_client: Any
) -> None:
    know_the_scripts(make_breaker, proxy)
    cb = make_breaker(proxy.redis_url, timeout=0.5)
    event_id = uuid7()
    proxy.losing = (event_id.encode(),)
    proxy.inject(Fault.LOST_RESPONSE)
    error, _ = timed(lambda: cb.trip("MANUAL", event_id=event_id))
    assert isinstance(error, BreakerUnavailable)
    assert error.may_have_happened
    assert proxy.lost > 1
    proxy.heal()
    assert cb.trip("MANUAL", event_id=event_id).trip_count_today == 1
    assert redis_client.zcard(KEYS.history) == redis_client.xlen(KEYS.outbox) == 1


def test_one_lost_reply_is_not_noticed_by_the_caller(make_breaker: Any, proxy: FaultProxy, redis_client: Any) -> None:
    know_the_scripts(make_breaker, proxy)
    cb = make_breaker(proxy.redis_url, timeout=5)
    cb.trip("MANUAL")

    def lose_one() -> None:
        eventually(lambda: proxy.lost, every=0.0001)
        proxy.heal()

    proxy.losing = (b"EVAL",)
    proxy.inject(Fault.LOST_RESPONSE)
    watcher = threading.Thread(target=lose_one)
    watcher.start()
    status = cb.reset("ada")
    watcher.join()
    assert proxy.lost >= 1
    assert status.state is State.QUIET_PERIOD
    assert redis_client.xlen(KEYS.outbox) == 2, "and it happened once"


def test_promise_2_a_reset_that_the_network_held_back_does_not_undo_a_later_trip(
    make_breaker: Any, proxy: FaultProxy, redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    know_the_scripts(make_breaker, proxy)
    direct = make_breaker(redis_server.url, reset_interval=0)
    direct.trip("MANUAL")
    held_back = make_breaker(proxy.redis_url, reset_interval=0, timeout=0.5)
    event_id = uuid7()
    proxy.holding = event_id.encode()
    error, _ = timed(lambda: held_back.reset("ada", event_id=event_id))
    assert isinstance(error, BreakerUnavailable)
    assert error.may_have_happened
    later = direct.trip("LATER")
    assert proxy.deliver() >= 1
    assert direct.get_status().state is State.TRIPPED
    assert direct.get_status().epoch == later.epoch


def test_promise_10_a_reset_that_cannot_even_look_has_changed_nothing_and_ends_in_time(
    make_breaker: Any, own_server: EmbeddedRedis
) -> None:
    cb = make_breaker(own_server.url, timeout=0.6)
    cb.trip("MANUAL")
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGSTOP)
    error, took = timed(lambda: cb.reset("ada"))
    os.kill(own_server.pid, signal.SIGCONT)
    assert isinstance(error, BreakerUnavailable)
    assert not error.may_have_happened
    assert "reset" in str(error) and "Nothing was changed" in str(error)
    assert took < 0.6 + SLACK
    assert cb.get_status().state is State.TRIPPED


def test_a_connection_that_has_died_silently_does_not_use_up_the_deadline(make_breaker: Any, proxy: FaultProxy) -> None:
    cb = make_breaker(proxy.redis_url, timeout=2)
    cb.initialize_state()
    proxy.forget()
    assert cb.trip("MANUAL").state is State.TRIPPED


def test_a_demoted_server_is_left_for_the_one_that_its_name_leads_to_by_then(
    make_breaker: Any, proxy: FaultProxy, redis_server: EmbeddedRedis, own_server: EmbeddedRedis
) -> None:
    cb = make_breaker(proxy.redis_url, timeout=5)
    proxy.upstream = ("127.0.0.1", own_server.port)
    cb.initialize_state()
    client: Any = redis.Redis.from_url(own_server.url)
    client.replicaof("127.0.0.1", redis_server.port)
    proxy.upstream = ("127.0.0.1", redis_server.port)
    assert cb.trip("MANUAL").state is State.TRIPPED
    client.close()


def test_a_connection_that_the_server_has_closed_is_not_taken_for_one_that_was_used(own_server: EmbeddedRedis) -> None:
    cb = CircuitBreaker(redis.Redis.from_url(own_server.url), timeout=0.2)
    cb.initialize_state()
    own_server.kill()
    error, _ = timed(lambda: cb.trip("MANUAL"))
    assert isinstance(error, BreakerUnavailable)
    assert error.may_have_happened is False


def test_a_restarted_server_is_found_again_with_everything_acknowledged(
    make_breaker: Any, own_server: EmbeddedRedis
) -> None:
    cb = make_breaker(own_server.url, timeout=10)
    cb.initialize_state()
    for _ in range(3):
        tripped = cb.trip("MANUAL")
        own_server.kill()
        own_server.start()
        assert cb.get_status().epoch == tripped.epoch
    assert [e.transition for e in cb.get_history()] == ["TRIP", "TRIP", "TRIP", "INITIALIZE"]


def test_a_trip_waits_out_a_restart(make_breaker: Any, own_server: EmbeddedRedis) -> None:
    cb = make_breaker(own_server.url, timeout=10)
    cb.initialize_state()
    own_server.kill()
    with ThreadPoolExecutor(1) as pool:
        trip = pool.submit(cb.trip, "MANUAL")
        own_server.start()
        assert trip.result().state is State.TRIPPED
    assert len(cb.get_history()) == 2


def test_a_busy_server_is_waited_for(make_breaker: Any, own_server: EmbeddedRedis) -> None:
    cb = make_breaker(own_server.url, timeout=10)
    cb.initialize_state()
    client = redis.Redis.from_url(own_server.url, retry=None)
    client.config_set("busy-reply-threshold", 1)
    with ThreadPoolExecutor(2) as pool:
        loop = pool.submit(_loop_for_ever, own_server.url)
        eventually(lambda: _is_busy(client), every=0.001)
        trip = pool.submit(cb.trip, "MANUAL")
        client.script_kill()
        assert trip.result().state is State.TRIPPED
        assert isinstance(loop.exception(), redis.ResponseError)
    client.close()


def _loop_for_ever(url: str) -> None:
    with redis.Redis.from_url(url, socket_timeout=20) as client:
        client.eval("while true do end", 0)


def _is_busy(client: Any) -> bool:
    try:
        client.ping()
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False


def test_a_replica_is_waited_for_and_then_nothing_has_happened(
    make_breaker: Any, own_server: EmbeddedRedis, redis_server: EmbeddedRedis
) -> None:
    client = redis.Redis.from_url(own_server.url)
    cb = make_breaker(own_server.url, timeout=0.3)
    cb.initialize_state()
    client.config_set("replica-serve-stale-data", "yes")
    client.replicaof("127.0.0.1", redis_server.port)
    error, _ = timed(lambda: cb.trip("MANUAL"))
    assert isinstance(error, BreakerUnavailable)
    assert error.may_have_happened is False
    assert "read only" in str(error)
    client.replicaof("NO", "ONE")
    assert cb.trip("MANUAL").state is State.TRIPPED
    client.close()


@pytest.mark.parametrize(
    ("credentials", "message"),
    [("", "refused .* password"), (":wrong@", "refused .* password"), ("nobody:wrong@", "refused .* password")],
)
def test_wrong_credentials_are_told_at_once(
    make_breaker: Any, own_server: EmbeddedRedis, credentials: str, message: str
) -> None:
    client = redis.Redis.from_url(own_server.url)
    client.config_set("requirepass", "s3cret")
    cb = make_breaker(f"redis://{credentials}127.0.0.1:{own_server.port}/0", timeout=60)
    with in_time(1), pytest.raises(RedisRefused, match=message) as refusal:
        cb.trip("MANUAL")
    assert f"127.0.0.1:{own_server.port}" in str(refusal.value)
    assert "Nothing was changed" in str(refusal.value)
    assert "wrong" not in str(refusal.value).replace("WRONGPASS", "") and "\n" not in str(refusal.value)
    assert cb.get_status().state is State.UNKNOWN
    client.close()
    good = make_breaker(f"redis://:s3cret@127.0.0.1:{own_server.port}/0")
    assert good.trip("MANUAL").state is State.TRIPPED


def test_a_user_who_may_only_read_can_read_and_is_told_why_no_more(
    make_breaker: Any, own_server: EmbeddedRedis
) -> None:
    admin: Any = redis.Redis.from_url(own_server.url)
    CircuitBreaker(admin).initialize_state()
    admin.execute_command(
        "ACL", "SETUSER", "viewer", "on", ">secret", "~circuit_breaker:*", "+get", "+time", "+zrevrange"
    )
    cb = make_breaker(f"redis://viewer:secret@127.0.0.1:{own_server.port}/0")
    assert cb.get_state() is State.OPEN
    assert len(cb.get_history()) == 1
    with pytest.raises(RedisRefused, match="ACL SETUSER"):
        cb.trip("MANUAL")
    assert cb.get_state() is State.OPEN
    admin.close()


def test_promise_10_a_server_that_trickles_its_greeting_cannot_hold_a_caller() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection:
                while not stop.wait(0.05):
                    try:
                        connection.sendall(b"+")
                    except OSError:
                        return

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        client = redis.Redis(port=listener.getsockname()[1], password="x")
        status, took = timed(CircuitBreaker(client, timeout=0.4).get_status)
        stop.set()
        thread.join()
    assert status.state is State.UNKNOWN
    assert took < 0.4 + SLACK


def test_a_unix_socket_works_too(make_breaker: Any, tmp_path: Path) -> None:
    path = Path(os.path.relpath(tmp_path)) / "s"
    with EmbeddedRedis(tmp_path / "data", config={"unixsocket": str(path.absolute())}):
        cb = make_breaker(f"unix://{path.absolute()}?db=3")
        cb.initialize_state()
        assert cb.trip("MANUAL").state is State.TRIPPED


def test_the_callers_own_settings_do_not_reach_the_breakers_connections(
    redis_server: EmbeddedRedis, redis_client: Any
) -> None:
    for settings in (
        {"decode_responses": True},
        {"protocol": 3, "decode_responses": True},
        {"protocol": 2},
        {"socket_timeout": 0.000001},
        {"health_check_interval": 1, "client_name": "engine", "encoding": "latin-1"},
        {"max_connections": 1},
        {"single_connection_client": True},
    ):
        client = redis.Redis(port=redis_server.port, **settings)
        cb = CircuitBreaker(client)
        assert cb.trip("Grüße, 取引").trip_reason == "Grüße, 取引" or cb.get_status().trip_count_today > 1
        assert cb.get_state() is State.TRIPPED
        assert cb.get_history(1)[0].reason == "Grüße, 取引"
        cb.close()
        client.close()


def test_what_is_no_redis_client_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"no redis\.Redis client"):
        CircuitBreaker(object())  # type: ignore[arg-type]


@pytest.mark.parametrize("plain", [False, True], ids=["the breaker's own client", "a plain one"])
async def test_a_cancellation_is_never_lost(
    redis_server: EmbeddedRedis, redis_client: redis.Redis, plain: bool
) -> None:
    """However far a call has come: somebody's Ctrl-C ends it."""
    CircuitBreaker(redis_client).initialize_state()
    ended, steps = False, 0
    while not ended:
        async with open_async_redis(redis_server.url, timeout=20.0) as client:
            asked: Any = client.get(KEYS.state) if plain else AsyncCircuitBreaker(client).get_status()
            call = asyncio.create_task(asked)
            for _ in range(steps):
                await asyncio.sleep(0)
            # What it waits for may be over, too: then it goes on in the same turn of the loop that cancels it.
            time.sleep(0.001)
            ended = not call.cancel()
            if not ended:
                with pytest.raises(asyncio.CancelledError):
                    await call
        steps += 1
    assert steps > 5


async def test_a_plain_client_still_gives_up_a_write_that_nobody_takes(proxy: FaultProxy) -> None:
    proxy.inject(Fault.HUNG)
    url = f"redis://127.0.0.1:{proxy.port}/0"
    async with open_async_redis(url, timeout=0.2, retry=AsyncRetry(NoBackoff(), 0)) as client:
        with pytest.raises(redis.exceptions.TimeoutError):
            await client.ping()


def test_threads_share_one_breaker(redis_server: EmbeddedRedis, redis_client: Any) -> None:
    cb = CircuitBreaker(redis_client, reset_interval=0, timeout=60)
    first = cb.initialize_state().epoch or 0
    with ThreadPoolExecutor(8) as pool:
        epochs = sorted(status.epoch or 0 for status in pool.map(lambda i: cb.trip(f"T{i}"), range(400)))
    assert epochs == list(range(first + 1, first + 401))
    assert redis_client.xlen(KEYS.outbox) == 401


def test_a_forked_child_uses_connections_of_its_own(redis_server: EmbeddedRedis, redis_client: Any) -> None:
    cb = CircuitBreaker(redis_client)
    cb.initialize_state()
    reading, writing = os.pipe()

    def trip_and_tell() -> None:
        for _ in range(50):
            event_id = uuid7()
            os.write(writing, f"{event_id} {cb.trip('MANUAL', event_id=event_id).epoch}\n".encode())

    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                trip_and_tell()
            finally:
                os._exit(0)
        children.append(child)
    trip_and_tell()
    os.close(writing)
    told = set(os.fdopen(reading).read().splitlines())
    for child in children:
        os.waitpid(child, 0)
    events = [TransitionEvent.from_json(fields[b"event"]) for _, fields in redis_client.xrange(KEYS.outbox)]
    assert told == {f"{event.event_id} {event.epoch}" for event in events if event.transition == "TRIP"}
    assert len(told) == 250
