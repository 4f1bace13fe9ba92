"""Users, sessions and tokens, on both databases."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from argon2 import PasswordHasher, Type
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from breaker.errors import InvalidInput
from console.auth import sessions as sessions_module
from console.auth.identities import Identities
from console.auth.permissions import PERMISSIONS, WITHOUT_DATABASE, Permission, Role
from console.auth.schema import upgrade
from console.auth.tables import failures, sessions, tokens, users
from console.auth.throttle import FIRST_WAIT, FORGET, FREE, LONGEST_WAIT, Failures, Throttle
from console.auth.users import AccountConflict
from ledger.errors import LedgerUnavailable
from ledger.ledger import Ledger
from ledger.schema import upgrade as upgrade_ledger
from ledger.transactions import reading
from tests.helpers import eventually
from tests.ledger.servers import Postgres

PASSWORD = "correct horse battery"


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'audit.db'}"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.create_database(f"console_{time.time_ns()}")
    opened = Ledger.connect(url)
    upgrade_ledger(opened)
    upgrade(opened)
    yield opened
    opened.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.connect(f"sqlite:///{tmp_path / 'audit.db'}")
    upgrade(opened)
    yield opened
    opened.close()


@pytest.fixture
def identities(ledger: Ledger) -> Identities:
    made = Identities(ledger)
    made.users.add("root", Role.ADMIN, PASSWORD)
    return made


def test_migrating_again_changes_nothing(ledger: Ledger, identities: Identities) -> None:
    upgrade(ledger)
    assert [user.name for user in identities.users.all()] == ["root"]


def test_signing_in_gives_a_session_with_the_roles_permissions(identities: Identities) -> None:
    identities.users.add("rita", Role.RISK_MANAGER, PASSWORD)
    signed_in = identities.sessions.sign_in("rita", PASSWORD, "127.0.0.1")
    assert signed_in is not None
    identity = identities.sessions.confirm(signed_in[0])
    assert identity is not None
    assert (identity.user, identity.permissions) == ("rita", PERMISSIONS[Role.RISK_MANAGER])


@pytest.mark.parametrize("name, password", [("root", "wrong password"), ("nobody", PASSWORD), ("root", ""), ("", "")])
def test_a_wrong_name_or_password_gives_nothing(identities: Identities, name: str, password: str) -> None:
    assert identities.sessions.sign_in(name, password, "127.0.0.1") is None


def test_sessions_end_by_signing_out(identities: Identities) -> None:
    secret, identity = identities.sessions.sign_in("root", PASSWORD, "x") or pytest.fail("not signed in")
    identities.sessions.end(identity)
    assert identities.sessions.confirm(secret) is None


@pytest.mark.parametrize("change", ["role", "password", "removal"])
def test_whoever_is_changed_is_signed_out_everywhere(identities: Identities, change: str) -> None:
    identities.users.add("olga", Role.OPERATOR, PASSWORD)
    secret, _ = identities.sessions.sign_in("olga", PASSWORD, "x") or pytest.fail("not signed in")
    match change:
        case "role":
            identities.users.set_role("olga", Role.VIEWER)
        case "password":
            identities.users.set_password("olga", "another long password")
        case "removal":
            identities.users.remove("olga")
    assert identities.sessions.confirm(secret) is None


def test_a_session_ends_when_nobody_uses_it_and_watching_is_no_use(ledger: Ledger, identities: Identities) -> None:
    brief = Identities(ledger, idle_timeout=0.4)
    secret, _ = brief.sessions.sign_in("root", PASSWORD, "x") or pytest.fail("not signed in")
    eventually(lambda: brief.sessions.confirm(secret, used=False) is None)
    brief = Identities(ledger, idle_timeout=1.0)
    secret, _ = brief.sessions.sign_in("root", PASSWORD, "x") or pytest.fail("not signed in")
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        assert brief.sessions.confirm(secret) is not None
        time.sleep(0.05)


def test_a_session_ends_after_its_lifetime_however_busy(ledger: Ledger, identities: Identities) -> None:
    short = Identities(ledger, lifetime=0.3)
    secret, _ = short.sessions.sign_in("root", PASSWORD, "x") or pytest.fail("not signed in")
    eventually(lambda: short.sessions.confirm(secret) is None)


def test_without_the_database_a_known_session_may_only_make_things_safer(
    ledger: Ledger, identities: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, _ = identities.sessions.sign_in("root", PASSWORD, "x") or pytest.fail("not signed in")
    away = Ledger.connect("postgresql://nobody@127.0.0.1:9/nothing")
    monkeypatch.setattr(identities.sessions, "_ledger", away)
    identity = identities.sessions.confirm(secret)
    assert identity is not None
    assert identity.permissions == WITHOUT_DATABASE
    assert not identity.confirmed
    assert identities.sessions.confirm("never seen") is None


def test_without_the_database_a_known_token_may_only_make_things_safer(
    ledger: Ledger, identities: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [Permission.TRIP_CIRCUIT, Permission.KILL_SWITCH, Permission.RESET_CIRCUIT]
    text, _ = identities.tokens.create("root", "robot", wanted, 1)
    unused, _ = identities.tokens.create("root", "unused", wanted, 1)
    revoked, gone = identities.tokens.create("root", "revoked", wanted, 1)
    brief, _ = identities.tokens.create("root", "brief", wanted, 1.0 / 86_400)
    assert all(identities.tokens.confirm(known) is not None for known in (brief, text, revoked))
    identities.tokens.revoke(gone.id)
    assert identities.tokens.confirm(revoked) is None
    monkeypatch.setattr(identities.tokens, "_ledger", Ledger.connect("postgresql://nobody@127.0.0.1:9/nothing"))
    identity = identities.tokens.confirm(text)
    assert identity is not None and not identity.confirmed
    assert identity.permissions == {Permission.TRIP_CIRCUIT, Permission.KILL_SWITCH}
    eventually(lambda: not _holds(identities, brief))
    for unknown in (unused, revoked):
        with pytest.raises(LedgerUnavailable):
            identities.tokens.confirm(unknown)


def _holds(identities: Identities, token: str) -> bool:
    try:
        return identities.tokens.confirm(token) is not None
    except LedgerUnavailable:
        return False


def test_the_last_admin_stays(identities: Identities) -> None:
    with pytest.raises(AccountConflict, match="last admin"):
        identities.users.remove("root")
    with pytest.raises(AccountConflict, match="last admin"):
        identities.users.set_role("root", Role.VIEWER)
    identities.users.add("second", Role.ADMIN, PASSWORD)
    identities.users.remove("root")
    assert [user.name for user in identities.users.all()] == ["second"]


def test_a_removed_user_may_come_back_but_its_tokens_dont(identities: Identities) -> None:
    identities.users.add("olga", Role.OPERATOR, PASSWORD)
    text, _ = identities.tokens.create("olga", "ci", [Permission.VIEW_CIRCUIT], 1)
    identities.users.remove("olga")
    identities.users.add("olga", Role.VIEWER, "another long password")
    assert identities.tokens.confirm(text) is None
    assert identities.sessions.sign_in("olga", PASSWORD, "x") is None
    assert identities.sessions.sign_in("olga", "another long password", "x") is not None


@pytest.mark.parametrize("name", ["", "Root", "a b", "a\n", "-x", "a" * 65, "é", "a/../b"])
def test_names_that_could_be_mistaken_are_refused(identities: Identities, name: str) -> None:
    with pytest.raises(InvalidInput):
        identities.users.add(name, Role.VIEWER, PASSWORD)


@pytest.mark.parametrize("password", ["short", "x" * 257, "aaaaaaaaaaaaaaaa", "longusername"])
def test_passwords_that_would_be_guessed_are_refused(identities: Identities, password: str) -> None:
    with pytest.raises(InvalidInput):
        identities.users.add("longusername", Role.VIEWER, password)


def test_a_token_has_what_both_it_and_the_role_have(identities: Identities) -> None:
    identities.users.add("olga", Role.OPERATOR, PASSWORD)
    text, token = identities.tokens.create("olga", "bot", [Permission.VIEW_CIRCUIT, Permission.TRIP_CIRCUIT], 30)
    assert (found := identities.tokens.confirm(text)) is not None
    assert found.permissions == {Permission.VIEW_CIRCUIT, Permission.TRIP_CIRCUIT}
    identities.users.set_role("olga", Role.VIEWER)
    assert (found := identities.tokens.confirm(text)) is not None
    assert found.permissions == {Permission.VIEW_CIRCUIT}
    identities.tokens.revoke(token.id)
    assert identities.tokens.confirm(text) is None


def test_a_token_cant_be_given_more_than_its_user_has(identities: Identities) -> None:
    identities.users.add("vera", Role.VIEWER, PASSWORD)
    with pytest.raises(InvalidInput, match="RESET_CIRCUIT"):
        identities.tokens.create("vera", "x", [Permission.RESET_CIRCUIT], 1)


def test_a_token_expires(identities: Identities) -> None:
    text, _ = identities.tokens.create("root", "x", [Permission.VIEW_CIRCUIT], 0.2 / 86_400)
    eventually(lambda: identities.tokens.confirm(text) is None)
    assert identities.tokens.all() == []


@pytest.mark.parametrize("text", ["", "brk_", "brk_x", "brk_x_y", "Bearer", "brk_%_x", "brk_" + "x" * 500])
def test_what_is_no_token_is_nobodys(identities: Identities, text: str) -> None:
    assert identities.tokens.confirm(text) is None


def test_nothing_that_is_stored_can_be_used_to_sign_in(ledger: Ledger, identities: Identities) -> None:
    secret, _ = identities.sessions.sign_in("root", PASSWORD, "x") or pytest.fail("not signed in")
    text, _ = identities.tokens.create("root", "x", [Permission.VIEW_CIRCUIT], 1)
    with reading(ledger) as connection:
        stored = str([connection.execute(table.select()).all() for table in (users, tokens, sessions)])
    assert "$argon2id$" in stored
    for usable in (PASSWORD, secret, text.split("_", 2)[2]):
        assert usable not in stored


def test_passwords_are_hashed_as_rfc_9106_recommends() -> None:
    hasher = PasswordHasher()
    assert hasher.type is Type.ID
    assert (hasher.time_cost, hasher.memory_cost, hasher.parallelism) == (3, 65_536, 4)


def test_a_user_who_doesnt_exist_costs_as_much_time_as_one_who_does(
    identities: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str | None] = []

    def spy(password: str, password_hash: str | None) -> bool:
        verified.append(password_hash)
        return False

    monkeypatch.setattr(sessions_module, "password_fits", spy)
    identities.sessions.sign_in("nobody", "x", "y")
    assert verified == [None]


def test_roles_grow_and_only_deciders_reset() -> None:
    order = [Role.VIEWER, Role.OPERATOR, Role.RISK_MANAGER, Role.ADMIN]
    for lower, higher in pairwise(order):
        assert PERMISSIONS[lower] < PERMISSIONS[higher] or higher is Role.ADMIN
    assert PERMISSIONS[Role.ADMIN] == frozenset(Permission)
    assert Permission.RESET_CIRCUIT not in PERMISSIONS[Role.OPERATOR]
    assert Permission.TRIP_CIRCUIT in PERMISSIONS[Role.OPERATOR]
    assert Permission.TRIP_CIRCUIT not in PERMISSIONS[Role.VIEWER]


def test_guessing_gets_slower_and_slower_at_all_consoles_together(sqlite: Ledger) -> None:
    consoles, now, tries = (Throttle(sqlite), Throttle(sqlite)), 0.0, 0
    while now < 86_400:
        wait = consoles[tries % 2].attempt("root", "10.0.0.1", now)
        now += wait
        tries += wait == 0
    assert tries < 120
    with reading(sqlite) as connection:
        assert "root" not in str(connection.execute(select(failures)).all()), "names may be mistyped passwords"


def test_attempts_made_at_once_dont_all_go_free(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(lambda _: Throttle(ledger).attempt("root", "10.0.0.1", 1.0), range(24)))
    assert waits.count(0.0) == FREE


def test_guessing_from_elsewhere_doesnt_keep_the_owner_out(sqlite: Ledger) -> None:
    throttle = Throttle(sqlite)
    for n in range(FREE + 5):
        assert throttle.attempt("root", f"10.0.0.{n}", 0.0) == 0
    assert throttle.attempt("root", "192.168.1.1", 0.0) == 0


def test_all_addresses_of_one_host_count_as_one(sqlite: Ledger) -> None:
    """Whoever has IPv6 has 2 to the 64 of them."""
    throttle = Throttle(sqlite)
    for n in range(FREE):
        throttle.attempt("root", f"2001:db8::{n:x}", 0.0)
    assert throttle.attempt("root", "2001:db8::ffff", 0.0) > 0
    assert throttle.attempt("root", "2001:db8:0:1::1", 0.0) == 0
    throttle.attempt("root", "::ffff:10.0.0.1", 0.0)
    assert throttle.attempt("root", "not an address", 0.0) == 0


def test_one_good_password_doesnt_excuse_an_addresss_other_failures(sqlite: Ledger) -> None:
    throttle = Throttle(sqlite)
    for n in range(FREE):
        throttle.attempt(f"user{n}", "10.0.0.1", 0.0)
    assert throttle.attempt("mine", "10.0.0.1", 10.0) == 0
    throttle.succeeded("mine", "10.0.0.1")
    assert throttle.attempt("another", "10.0.0.1", 10.0) > 0


def test_signing_in_often_is_no_failure(sqlite: Ledger) -> None:
    throttle = Throttle(sqlite)
    for _ in range(FREE + 5):
        assert throttle.attempt("mine", "10.0.0.1", 0.0) == 0
        throttle.succeeded("mine", "10.0.0.1")


@given(st.integers(0, 10_000), st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_no_wait_is_endless_and_none_is_forgotten_early(count: int, last: float, now: float) -> None:
    assert 0 <= Failures(count, last).wait(now) <= LONGEST_WAIT
    assert FIRST_WAIT <= LONGEST_WAIT <= FORGET
