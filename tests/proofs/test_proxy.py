"""What a client of the fault proxy sees, and what the server behind it gets."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from proofs.proxy import Fault, FaultProxy
from tests.helpers import eventually

SILENCE = 0.15
"""Seconds without an answer that are taken for none."""


class Echo(socketserver.ThreadingTCPServer):
    """Answers each chunk with itself in capitals; `heard` is all that it got."""

    daemon_threads = True

    def __init__(self) -> None:
        self.heard = b""
        self.open: list[socket.socket] = []
        super().__init__(("127.0.0.1", 0), EchoHandler)

    def wait_for(self, word: bytes) -> None:
        eventually(lambda: word in self.heard, f"the server never got {word!r}")


class EchoHandler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Echo)
        self.server.open.append(self.request)
        while data := self.request.recv(1024):
            self.server.heard += data
            self.request.sendall(data.upper())


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", echo.server_address[1])) as proxy:
        yield proxy


def connected(proxy: FaultProxy) -> closing[socket.socket]:
    return closing(socket.create_connection(proxy.address, timeout=5))


def ask(connection: socket.socket, word: bytes) -> bytes:
    connection.sendall(word)
    return connection.recv(1024)


def test_without_a_fault_it_only_forwards(proxy: FaultProxy) -> None:
    with connected(proxy) as one, connected(proxy) as other:
        assert ask(one, b"one") == b"ONE"
        assert ask(other, b"other") == b"OTHER"


def test_refused_closes_what_is_open_and_refuses_what_is_new_until_it_is_healed(proxy: FaultProxy) -> None:
    with connected(proxy) as open_before:
        assert ask(open_before, b"before") == b"BEFORE"
        proxy.inject(Fault.REFUSED)
        assert open_before.recv(1024) == b""
    with pytest.raises(ConnectionRefusedError):
        connected(proxy)
    proxy.heal()
    with connected(proxy) as after:
        assert ask(after, b"after") == b"AFTER"


def test_hung_swallows_on_open_and_new_connections_and_what_was_lost_ends_with_the_fault(
    proxy: FaultProxy, echo: Echo
) -> None:
    with connected(proxy) as open_before, connected(proxy) as unused:
        assert ask(open_before, b"before") == b"BEFORE"
        assert ask(unused, b"quiet") == b"QUIET"
        proxy.inject(Fault.HUNG)
        with connected(proxy) as new:
            for connection in (open_before, new):
                connection.settimeout(SILENCE)
                with pytest.raises(TimeoutError):
                    ask(connection, b"swallowed")
            proxy.heal()
            for connection in (open_before, new):
                assert connection.recv(1024) == b""
        assert ask(unused, b"still good") == b"STILL GOOD"
    assert b"swallowed" not in echo.heard


def test_hung_hides_that_the_server_has_gone(proxy: FaultProxy, echo: Echo) -> None:
    with connected(proxy) as connection:
        assert ask(connection, b"before") == b"BEFORE"
        proxy.inject(Fault.HUNG)
        for end in echo.open:
            end.shutdown(socket.SHUT_RDWR)
        connection.settimeout(SILENCE)
        with pytest.raises(TimeoutError):
            connection.recv(1024)


def test_silent_swallows_too_but_nobody_is_told_when_it_ends(proxy: FaultProxy, echo: Echo) -> None:
    with connected(proxy) as connection:
        assert ask(connection, b"before") == b"BEFORE"
        proxy.inject(Fault.SILENT)
        connection.settimeout(SILENCE)
        with pytest.raises(TimeoutError):
            ask(connection, b"swallowed")
        proxy.heal()
        connection.settimeout(5)
        assert ask(connection, b"after") == b"AFTER"
    assert b"swallowed" not in echo.heard


def test_what_is_forgotten_stays_so_and_what_is_new_is_well(proxy: FaultProxy, echo: Echo) -> None:
    with connected(proxy) as open_before:
        assert ask(open_before, b"before") == b"BEFORE"
        proxy.forget()
        with connected(proxy) as new:
            assert ask(new, b"new") == b"NEW"
        proxy.heal()
        open_before.settimeout(SILENCE)
        with pytest.raises(TimeoutError):
            ask(open_before, b"swallowed")
    assert b"swallowed" not in echo.heard


def test_what_is_held_reaches_the_server_when_it_is_delivered_though_its_sender_has_gone(
    proxy: FaultProxy, echo: Echo
) -> None:
    proxy.holding = b"hold"
    with connected(proxy) as connection:
        assert ask(connection, b"pass") == b"PASS"
        connection.sendall(b"hold this")
        connection.settimeout(SILENCE)
        with pytest.raises(TimeoutError):
            connection.recv(1024)
    assert b"hold this" not in echo.heard
    assert proxy.deliver() == 1
    assert b"hold this" in echo.heard
    assert proxy.deliver() == 0


def test_reset_resets_what_is_open_and_what_is_new(proxy: FaultProxy, echo: Echo) -> None:
    with connected(proxy) as open_before:
        assert ask(open_before, b"before") == b"BEFORE"
        proxy.inject(Fault.RESET)
        with pytest.raises(ConnectionResetError):
            open_before.recv(1024)
    with connected(proxy) as new, pytest.raises(ConnectionResetError):
        ask(new, b"dropped")
    assert b"dropped" not in echo.heard


def test_slow_delays_answers_on_open_connections(proxy: FaultProxy) -> None:
    with connected(proxy) as connection:
        assert ask(connection, b"quick") == b"QUICK"
        proxy.inject(Fault.SLOW)
        asked = time.monotonic()
        assert ask(connection, b"late") == b"LATE"
        assert time.monotonic() - asked >= proxy.delay


def test_wrong_answers_are_garbage_to_a_request_that_was_heard(proxy: FaultProxy, echo: Echo) -> None:
    with connected(proxy) as connection:
        proxy.inject(Fault.WRONG_ANSWERS)
        answer = ask(connection, b"a question")
        assert len(answer) == len(b"a question") and answer != b"A QUESTION"
        assert b"a question" in echo.heard
        proxy.heal()
        assert ask(connection, b"another") == b"ANOTHER"


def test_a_lost_response_was_heard(proxy: FaultProxy, echo: Echo) -> None:
    with connected(proxy) as connection:
        proxy.inject(Fault.LOST_RESPONSE)
        assert ask(connection, b"do it") == b""
        echo.wait_for(b"do it")


def test_of_chosen_requests_only_the_answers_are_lost(proxy: FaultProxy, echo: Echo) -> None:
    proxy.losing = (b"POST", b"DELETE")
    proxy.inject(Fault.LOST_RESPONSE)
    with connected(proxy) as connection:
        assert ask(connection, b"get it") == b"GET IT"
        assert ask(connection, b"DELETE it") == b""
    assert b"DELETE it" in echo.heard
    assert proxy.lost == 1


def test_a_server_that_is_gone_is_no_connection_either(proxy: FaultProxy) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as nobody:
        gone = nobody.getsockname()[1]
    proxy.lead_to(("127.0.0.1", gone))
    with pytest.raises(ConnectionResetError), connected(proxy) as connection:
        ask(connection, b"anybody?")


def test_faults_follow_each_other_without_healing_between(proxy: FaultProxy) -> None:
    for fault in (Fault.REFUSED, Fault.REFUSED, Fault.HUNG, Fault.RESET, Fault.REFUSED, Fault.SLOW, Fault.NONE):
        proxy.inject(fault)
    with connected(proxy) as connection:
        assert ask(connection, b"word") == b"WORD"
