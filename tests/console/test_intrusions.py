"""Attempted intrusions, and what each gets. docs/explanation/security.md has them as a table."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest
import redis
from starlette.datastructures import Headers

from breaker import CircuitBreaker, State
from configuration.console import ConsoleSettings
from configuration.settings import ConfigurationError
from console.auth import passwords
from console.auth.passwords import MOST_WAITING
from console.auth.permissions import Role
from console.auth.signing import host_key
from console.auth.throttle import FREE, Throttle
from console.live.state_watcher import MOST_ASKED
from console.request_guard import LARGEST_BODY, client_address, safe_redirect, same_origin
from console.serve import check_address, prepare
from ledger.queries import Filter
from tests.console.conftest import MakeSettings
from tests.console.harness import PASSWORD, REASON, Console, Visitor, hidden_fields
from tests.helpers import eventually

TRIP = {"reason": REASON, "acknowledge": "yes"}
SCRIPT = '<script>alert(1)</script><img src=x onerror="alert(2)">'


@pytest.fixture
def breaker(redis_client: redis.Redis) -> CircuitBreaker:
    made = CircuitBreaker(redis_client)
    made.initialize_state()
    return made


@pytest.fixture
def admin(console: Console) -> Iterator[Visitor]:
    visitor = console.visitor(Role.ADMIN)
    yield visitor
    visitor.close()


# --- forged requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "", "x", "another session's"])
def test_a_form_without_the_sessions_token_does_nothing(
    console: Console, breaker: CircuitBreaker, admin: Visitor, token: str | None
) -> None:
    if token == "another session's":
        token = hidden_fields(
            console.visitor(Role.OPERATOR).get("/circuit-breaker/trip").text, "/circuit-breaker/trip"
        )["csrf"]
    answer = admin.post("/circuit-breaker/trip", data=TRIP | ({} if token is None else {"csrf": token}))
    assert answer.status_code == 403
    assert breaker.get_state() is State.OPEN


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_form_from_another_site_does_nothing_even_with_the_token(
    breaker: CircuitBreaker, admin: Visitor, headers: dict[str, str]
) -> None:
    form = hidden_fields(admin.get("/circuit-breaker/trip").text, "/circuit-breaker/trip")
    for path in ("/circuit-breaker/trip", "/logout", "/audit/verify", "/circuit-breaker/kill"):
        assert admin.post(path, data={**form, **TRIP, "confirm": "FLATTEN"}, headers=headers).status_code == 403
    assert breaker.get_state() is State.OPEN
    assert admin.get("/circuit-breaker").url.path == "/circuit-breaker", "still signed in"


def test_nobody_can_be_signed_in_by_a_foreign_page(console: Console) -> None:
    console.user("mallory", Role.ADMIN)
    victim = console.visitor()
    assert victim.post("/login", data={"user": "mallory", "password": PASSWORD}).status_code == 403
    assert victim.get("/circuit-breaker").url.path == "/login"


def test_a_form_of_another_kind_is_none(breaker: CircuitBreaker, admin: Visitor) -> None:
    for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x", ""):
        answer = admin.post("/circuit-breaker/trip", content=b"reason=x", headers={"Content-Type": kind})
        assert answer.status_code == 403, kind
    assert breaker.get_state() is State.OPEN


def test_no_action_is_a_link(breaker: CircuitBreaker, admin: Visitor) -> None:
    for path in ("/circuit-breaker/trip", "/circuit-breaker/reset", "/circuit-breaker/kill", "/circuit-breaker"):
        admin.get(path, params=TRIP)
    assert admin.get("/logout").status_code in (404, 405)
    assert breaker.get_state() is State.OPEN


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_that_was_planted_before_signing_in_is_not_used(console: Console) -> None:
    console.user("olga", Role.OPERATOR)
    planted = console.visitor(Role.VIEWER).cookies["breaker_session"]
    victim = console.visitor()
    victim.cookies.set("breaker_session", planted, domain="127.0.0.1", path="/")
    fresh = Visitor(console.url)
    form = hidden_fields(fresh.get("/login").text, "/login")
    answer = fresh.post(
        "/login",
        data={**form, "user": "olga", "password": PASSWORD},
        headers={"Cookie": f"breaker_session={planted}; breaker_login={fresh.cookies['breaker_login']}"},
        follow_redirects=False,
    )
    assert answer.status_code == 303
    assert fresh.cookies["breaker_session"] != planted
    assert victim.get("/circuit-breaker").url.path == "/login", "and the planted one is over"


def test_a_stolen_cookie_is_worthless_after_signing_out(console: Console, admin: Visitor) -> None:
    thief = Visitor(console.url)
    thief.cookies.set("breaker_session", admin.cookies["breaker_session"], domain="127.0.0.1", path="/")
    assert thief.get("/circuit-breaker").url.path == "/circuit-breaker"
    admin.submit("/logout", {}, page="/circuit-breaker")
    assert thief.get("/circuit-breaker").url.path == "/login"


@pytest.mark.parametrize("change", ["cut", "other", "unsigned", "empty", "long"])
def test_a_cookie_that_was_tampered_with_is_nobodys(console: Console, admin: Visitor, change: str) -> None:
    cookie = admin.cookies["breaker_session"]
    secret, _, signature = cookie.rpartition(".")
    forged = {
        "cut": cookie[:-1],
        "other": f"{secret[:-1]}{'a' if secret[-1] != 'a' else 'b'}.{signature}",
        "unsigned": secret,
        "empty": "",
        "long": "x" * 4_000,
    }[change]
    thief = Visitor(console.url)
    thief.cookies.set("breaker_session", forged, domain="127.0.0.1", path="/")
    assert thief.get("/circuit-breaker").url.path == "/login"


def test_scripts_cant_read_the_session_and_other_sites_dont_send_it(console: Console) -> None:
    console.user("olga", Role.OPERATOR)
    visitor = console.visitor()
    form = hidden_fields(visitor.get("/login").text, "/login")
    answer = visitor.post("/login", data={**form, "user": "olga", "password": PASSWORD}, follow_redirects=False)
    cookie = next(value for value in answer.headers.get_list("set-cookie") if value.startswith("breaker_session="))
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie
    assert "Secure" not in cookie, "there is no TLS in this test"


def test_behind_tls_the_cookie_never_travels_without(
    make_settings: MakeSettings, redis_server: object, redis_client: redis.Redis
) -> None:
    url = redis_server.url  # type: ignore[attr-defined]
    with Console(make_settings(url, console={"trusted_proxies": ["127.0.0.1/32"]})) as console:
        console.user("olga", Role.OPERATOR)
        visitor = console.visitor(headers={"X-Forwarded-Proto": "https"})
        page = visitor.get("/login")
        assert "max-age" in page.headers["strict-transport-security"]
        nonce = next(value for value in page.headers.get_list("set-cookie"))
        assert "Secure" in nonce
        answer = visitor.post(
            "/login",
            data={**hidden_fields(page.text, "/login"), "user": "olga", "password": PASSWORD},
            headers={"Cookie": nonce.split(";")[0]},
            follow_redirects=False,
        )
        assert any("Secure" in value for value in answer.headers.get_list("set-cookie") if "session" in value)


# --- guessing ---------------------------------------------------------------------------------------------------------


def test_guessing_passwords_is_slowed_down_and_on_record(console: Console) -> None:
    console.user("olga", Role.OPERATOR)
    guesser = console.visitor()
    answers = [guesser.sign_in("olga", f"wrong password {n}") for n in range(FREE + 2)]
    assert [answer.status_code for answer in answers] == [401] * FREE + [429] * 2
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert guesser.sign_in("olga", PASSWORD).status_code == 429, "the right one has to wait too"
    failed = console.ledger.query(Filter(actions=("SIGN_IN_FAILED",))).rows
    assert len(failed) == FREE
    assert {(row.user_id, row.outcome, row.ip_address) for row in failed} == {("olga", "DENIED", "127.0.0.1")}


def test_a_flood_of_sign_ins_doesnt_keep_others_from_halting(
    console: Console, breaker: CircuitBreaker, admin: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From as many addresses as it takes; the passwords are as slow to check as in production, and slower."""
    going_on = threading.Event()
    monkeypatch.setattr(passwords, "_hasher", SlowHasher(going_on))
    form = hidden_fields((page := console.visitor()).get("/login").text, "/login")
    flood = [Visitor(console.url, cookies=dict(page.cookies)) for _ in range(MOST_WAITING + 8)]
    answers: list[int] = []

    def knock(visitor: Visitor, name: str) -> None:
        answers.append(visitor.post("/login", data={**form, "user": name, "password": "guess"}).status_code)

    knocking = [threading.Thread(target=knock, args=(visitor, f"user{n}")) for n, visitor in enumerate(flood)]
    with monkeypatch.context() as patch:
        patch.setattr(Throttle, "attempt", lambda *_: 0.0)
        for thread in knocking:
            thread.start()
        eventually(lambda: answers.count(503) >= 8)
        admin.submit("/circuit-breaker/trip", TRIP)
        assert breaker.get_state() is State.TRIPPED, "while all of them wait"
        going_on.set()
        for thread in knocking:
            thread.join(20)
    assert sorted(set(answers)) == [401, 503]


class SlowHasher:
    """Says no to everybody, but not before it may."""

    def __init__(self, going_on: threading.Event) -> None:
        self._going_on = going_on

    def hash(self, password: str) -> str:
        return "nobody's"

    def verify(self, password_hash: str, password: str) -> bool:
        self._going_on.wait(20)
        return False


def test_a_name_that_a_terminal_would_obey_is_recorded_harmlessly(console: Console) -> None:
    for name in ("\x1b[2Jroot", "a\r\nIt was somebody else", "\u202etoor"):
        assert console.visitor().sign_in(name, "wrong").status_code == 401
    for row in console.ledger.query(Filter(actions=("SIGN_IN_FAILED",))).rows:
        assert row.user_id is not None and row.user_id.isprintable()


def test_names_cant_be_enumerated(console: Console) -> None:
    console.user("olga", Role.OPERATOR)
    known, unknown = console.visitor().sign_in("olga", "wrong"), console.visitor().sign_in("nobody", "wrong")
    assert (known.status_code, unknown.status_code) == (401, 401)

    def plain(page: httpx.Response) -> str:
        return re.sub(r'value="[^"]*"', "", page.text)

    assert plain(known) == plain(unknown)


def test_the_first_admins_password_is_random_and_there_is_no_default(
    make_settings: MakeSettings, redis_server: object, tmp_path: Path
) -> None:
    url = redis_server.url  # type: ignore[attr-defined]
    first = prepare(make_settings(url, state_dir=tmp_path / "a"))
    second = prepare(make_settings(url, state_dir=tmp_path / "b"))
    assert first is not None and second is not None
    assert first != second
    assert len(first) >= 20
    assert prepare(make_settings(url, state_dir=tmp_path / "a")) is None, "only ever shown once"


# --- addresses --------------------------------------------------------------------------------------------------------


def test_the_key_that_signs_sessions_is_its_owners_alone(console: Console) -> None:
    assert (console.settings.state_dir / "console.key").stat().st_mode & 0o777 == 0o600


def test_a_forged_proxy_header_is_not_believed(console: Console, breaker: CircuitBreaker) -> None:
    forged = {"X-Forwarded-For": "10.1.2.3", "X-Real-IP": "10.1.2.3", "Forwarded": "for=10.1.2.3"}
    visitor = console.visitor(headers=forged)
    visitor.sign_in(console.user("olga", Role.OPERATOR))
    visitor.submit("/circuit-breaker/trip", TRIP)
    eventually(lambda: bool(console.ledger.query(Filter(actions=("CIRCUIT_BREAKER_TRIP",))).rows))
    rows = console.ledger.query(Filter(user_id="olga")).rows
    assert {row.ip_address for row in rows} == {"127.0.0.1"}


@pytest.mark.parametrize(
    "peer, forwarded, seen",
    [
        ("203.0.113.9", "10.1.2.3", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "not an address", "10.0.0.1"),
        ("10.0.0.1", "<script>, 198.51.100.7", "198.51.100.7"),
        ("", "1.1.1.1", ""),
    ],
)
def test_only_our_proxies_are_believed(peer: str, forwarded: str, seen: str) -> None:
    assert client_address(peer, forwarded, [ip_network("10.0.0.0/8")]) == seen


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "trading.example"])
def test_nothing_is_open_to_others_without_tls(host: str) -> None:
    with pytest.raises(ConfigurationError, match="unencrypted"):
        check_address(ConsoleSettings(host=host))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_loopback_address_needs_no_tls(host: str) -> None:
    check_address(ConsoleSettings(host=host))


def test_a_name_that_was_pointed_at_us_gets_nothing(console: Console) -> None:
    """DNS rebinding."""
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        assert httpx.get(f"{console.url}/login", headers={"Host": host}).status_code == 421


# --- what is sent in --------------------------------------------------------------------------------------------------


def test_a_script_in_a_reason_is_text(console: Console, breaker: CircuitBreaker, admin: Visitor) -> None:
    admin.submit("/circuit-breaker/trip", {**TRIP, "reason": f"{REASON} {SCRIPT}"})
    breaker.trip("MANUAL", details={SCRIPT: SCRIPT, "reason": SCRIPT}, tripped_by=SCRIPT)
    eventually(lambda: len(console.ledger.query(Filter(actions=("CIRCUIT_BREAKER_TRIP",))).rows) == 2)
    pages = [admin.get(path).text for path in ("/circuit-breaker", "/audit", "/circuit-breaker/reset")]
    pages.append(admin.get("/audit", params={"user": SCRIPT, "since": SCRIPT}).text)
    pages.append(admin.post("/circuit-breaker/trip", data={"reason": SCRIPT}).text)
    for page in pages:
        assert "<script>alert" not in page
        assert 'onerror="' not in page
    assert "&lt;script&gt;" in pages[0]


def test_no_page_has_anything_inline_or_from_elsewhere(breaker: CircuitBreaker, admin: Visitor) -> None:
    breaker.trip("MANUAL")
    for path in ("/circuit-breaker", "/circuit-breaker/reset", "/circuit-breaker/kill", "/audit", "/system-health"):
        page = admin.get(path)
        policy = page.headers["content-security-policy"]
        assert "unsafe" not in policy and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?! src=\"/static/)|<style|\sstyle=|\son\w+=|javascript:", page.text)
        assert not re.search(r"(src|href)=\"(https?:)?//", page.text)


def test_no_path_leads_out_of_the_static_files(console: Console) -> None:
    for path in (
        "/static/../serve.py",
        "/static/%2e%2e/serve.py",
        "/static/..%2fserve.py",
        "/static//etc/passwd",
        "/static/%00",
        "/kill/../../etc/passwd",
        "/static/..\\serve.py",
    ):
        connection = http.client.HTTPConnection("127.0.0.1", console.port, timeout=5)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status in (303, 404), path
        assert b"uvicorn" not in body and b"root:" not in body, path


def test_signing_in_never_leads_to_another_site(console: Console) -> None:
    console.user("olga", Role.OPERATOR)
    for wanted in ("https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil", "/a\r\nX: y", "evil"):
        assert safe_redirect(wanted, "/") == "/"
        visitor = console.visitor()
        page = visitor.get("/login", params={"next": wanted})
        form = {**hidden_fields(page.text, "/login"), "user": "olga", "password": PASSWORD, "next": wanted}
        assert visitor.post("/login", data=form, follow_redirects=False).headers["location"] == "/"


@pytest.mark.parametrize("path", ["/login", "/circuit-breaker/trip", "/api/v1/circuit-breaker/trip"])
def test_a_large_body_is_refused(console: Console, path: str) -> None:
    visitor = console.visitor()
    assert visitor.post(path, content=b"x" * (LARGEST_BODY + 1)).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(LARGEST_BODY // 1_000 + 5):
            yield b"x" * 1_000

    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert visitor.post(path, content=endless(), headers=headers).status_code == 413


def test_a_malformed_form_does_nothing(breaker: CircuitBreaker, admin: Visitor) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    for body in (
        b"csrf=x&reason=a%00b",
        b"reason=%ff%fe",
        b"\xff\xfe",
        b"&".join([b"a=b"] * 500),
        b"=",
        b"reason=%00",
        b"%",
    ):
        assert admin.post("/circuit-breaker/trip", content=body, headers=headers).status_code == 403, body
    assert breaker.get_state() is State.OPEN


def test_a_malformed_body_gets_a_problem(console: Console, breaker: CircuitBreaker) -> None:
    headers, api = {"Content-Type": "application/json"}, console.api()
    for body in (b"", b"{", b"\xff", b"[" * 5_000, b'{"reason": 1e999}', b"null", b'{"reason":"\\ud800"}'):
        answer = api.post("/circuit-breaker/trip", content=body, headers=headers)
        assert answer.status_code in (400, 422), body
        assert answer.headers["content-type"] == "application/problem+json"
    assert breaker.get_state() is State.OPEN


def test_nonsense_on_the_wire_leaves_the_console_well(console: Console) -> None:
    for sent in (
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01" + b"\0" * 50,
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", console.port), timeout=5) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            reply = connection.recv(100)
        assert b" 200 " not in reply[:20]
        assert httpx.get(f"{console.url}/alive").status_code == 200


def test_breakers_that_dont_exist_are_not_watched_for_ever(console: Console, admin: Visitor) -> None:
    for n in range(MOST_ASKED + 20):
        admin.get("/circuit-breaker", params={"scope": f"strategy:x{n}"})
    page = admin.get("/circuit-breaker").text
    assert page.count("strategy:x") <= 3 * MOST_ASKED and "strategy:x0<" not in page
    assert "strategy:x69" in page


def test_every_attempt_is_in_the_table_and_every_row_was_attempted() -> None:
    """docs/explanation/security.md."""
    here = Path(__file__)
    ours = re.findall(r"^def test_(\w+)", here.read_text(), re.MULTILINE)
    attempts = (
        here.with_name("test_oidc.py").read_text().split("# --- attempts to get in")[1].split("# --- what decides")[0]
    )
    theirs = re.findall(r"^def test_(\w+)", attempts, re.MULTILINE)
    page = here.parents[2] / "docs" / "explanation" / "security.md"
    table = page.read_text().split("## Attempted intrusions")[1]
    rows = [line.split("|") for line in table.splitlines()]
    named = [re.findall(r"`(\w+)`", row[3]) for row in rows if len(row) == 5][2:]
    assert all(named)
    this = "every_attempt_is_in_the_table_and_every_row_was_attempted"
    assert sorted(name for row in named for name in row) == sorted({*ours, *theirs} - {this})


def test_an_error_of_ours_tells_nothing_of_the_inside(console: Console, admin: Visitor) -> None:
    paths = [
        "/nothing",
        "/api/v1/nothing",
        "/kill/x",
        "/circuit-breaker?scope=%00",
        "/audit?after=x",
        "/audit?user=%00",
    ]
    for path in [*paths, "/audit?since=0001-01-01T00:00:00%2B14:00", "/audit?since=9999-12-31T23:59:59-14:00"]:
        page = admin.get(path)
        assert page.status_code < 500
        assert "Traceback" not in page.text and "site-packages" not in page.text


@pytest.mark.parametrize(
    "headers, scheme, ours",
    [
        ({"host": "a"}, "http", True),
        ({"host": "a", "origin": "http://a"}, "http", True),
        ({"host": "a", "origin": "http://a"}, "https", False),
        ({"host": "a", "origin": "http://b"}, "http", False),
        ({"host": "a", "sec-fetch-site": "same-origin"}, "http", True),
        ({"host": "a", "sec-fetch-site": "none"}, "http", True),
        ({"host": "a", "sec-fetch-site": "cross-site"}, "http", False),
    ],
)
def test_where_a_form_comes_from(headers: dict[str, str], scheme: str, ours: bool) -> None:
    assert same_origin(Headers(headers), scheme) is ours


@pytest.mark.parametrize("kept", ["", "\n", "abcd"])
def test_a_key_file_without_a_key_starts_nothing_that_anybody_could_sign_for(tmp_path: Path, kept: str) -> None:
    (tmp_path / "console.key").write_text(kept)
    with pytest.raises(ConfigurationError, match="is no key; remove it"):
        host_key(tmp_path)


def test_processes_that_start_together_share_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        keys = set(threads.map(host_key, [tmp_path / "state"] * 16))
    assert len(keys) == 1 and len(keys.pop()) == 32
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["console.key"]
