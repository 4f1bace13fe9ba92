"""Signing in by an identity provider, against one over HTTP; and attempts to get in by it, and what each gets."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from joserfc.jwk import RSAKey
from pydantic import ValidationError

from configuration.console import OidcSettings
from console.auth.identities import Identities
from console.auth.oidc import person_of, role_of
from console.auth.permissions import Permission, Role
from console.auth.provider_accounts import ProviderIdentity
from console.auth.users import AccountConflict
from ledger.queries import Filter
from ledger.record import AuditRow
from sandbox.child_process import free_port
from sandbox.embedded_redis import EmbeddedRedis
from tests.console.conftest import MakeSettings
from tests.console.harness import Console, Visitor
from tests.console.identity_provider import CLIENT, SECRET, Claims, IdentityProvider
from tests.helpers import eventually, in_time

ROLES = {"desk": "operator", "risk": "risk_manager", "chiefs": "admin"}
MakeConsole = Callable[..., Console]


@pytest.fixture(scope="module")
def provider_process() -> Iterator[IdentityProvider]:
    with IdentityProvider() as running:
        yield running


@pytest.fixture
def provider(provider_process: IdentityProvider) -> Iterator[IdentityProvider]:
    """Honest, until the test says otherwise."""
    kept = dict(vars(provider_process))
    provider_process.person = {**provider_process.person}
    yield provider_process
    provider_process.hangs.clear()
    vars(provider_process).update(kept)


@pytest.fixture
def make_console(
    make_settings: MakeSettings,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    prepared_database: Path,
    provider: IdentityProvider,
) -> Iterator[MakeConsole]:
    """A console that knows the provider."""
    running: list[Console] = []

    def make(**changes: Any) -> Console:
        port = free_port()
        oidc = {
            "issuer": provider.issuer,
            "client_id": CLIENT,
            "client_secret": SECRET,
            "public_url": f"http://127.0.0.1:{port}",
            "roles": ROLES,
            "timeout": 2.0,
        }
        settings = make_settings(
            redis_server.url, console={"oidc": oidc | changes, "trusted_proxies": ["127.0.0.1/32"]}
        )
        if not settings.state_dir.exists():
            settings.state_dir.mkdir(parents=True)
            shutil.copy(prepared_database, settings.state_dir)
        running.append(Console(settings, port))
        return running[-1].__enter__()

    yield make
    for console in running:
        console.__exit__(None, None, None)


@pytest.fixture
def console(make_console: MakeConsole) -> Console:
    return make_console()


def sign_in(console: Console, address: int = 0, **options: Any) -> tuple[Visitor, httpx.Response]:
    """Somebody who has pressed the button, and where that led. Who fails often has to do so from several addresses."""
    visitor = console.visitor(headers={"X-Forwarded-For": f"10.0.0.{address}"})
    return visitor, visitor.get("/oidc/login", **options)


def turned_away(visitor: Visitor, answer: httpx.Response) -> bool:
    return answer.status_code == 403 and visitor.get("/circuit-breaker").url.path == "/login"


def recorded(console: Console, action: str) -> list[AuditRow]:
    return list(console.ledger.query(Filter(actions=(action,))).rows)


# --- how it is meant --------------------------------------------------------------------------------------------------


def test_the_button_signs_somebody_in_with_the_role_of_their_group(
    console: Console, provider: IdentityProvider
) -> None:
    page = console.visitor().get("/login", params={"next": "/audit"})
    assert 'href="/oidc/login?next=/audit"' in page.text
    visitor, answer = sign_in(console, params={"next": "/audit"})
    assert (answer.status_code, answer.url.path) == (200, "/audit")
    assert "<b>olga</b>" in answer.text and "operator" in answer.text
    assert provider.asked[-1]["redirect_uri"] == f"{console.url}/oidc/callback"
    (row,) = recorded(console, "SIGNED_IN")
    assert (row.user_id, row.outcome, row.ip_address) == ("olga", "OK", "10.0.0.0")
    assert row.details == {"by": provider.issuer, "role": "operator", "subject": "0815"}
    visitor.submit("/logout", {}, page="/audit")
    assert visitor.get("/audit").url.path == "/login"


def test_passwords_work_beside_it_unless_they_are_switched_off(make_console: MakeConsole) -> None:
    beside = make_console()
    assert beside.visitor(Role.ADMIN).get("/audit").url.path == "/audit"
    beside.stop()
    alone = make_console(local_sign_in=False)
    visitor = alone.visitor()
    assert "password" not in visitor.get("/login").text
    assert visitor.sign_in("the_admin").status_code == 403
    assert visitor.get("/audit").url.path == "/login"


def test_a_password_never_opens_an_account_of_the_provider(console: Console) -> None:
    sign_in(console)
    for password in ("", "x" * 20, "olga"):
        assert console.visitor().sign_in("olga", password).status_code == 401
    with pytest.raises(AccountConflict, match="signs in by"):
        console.identities.users.set_password("olga", "a long enough password")
    with pytest.raises(AccountConflict, match="signs in by"):
        console.identities.users.set_role("olga", Role.ADMIN)


def test_a_new_key_of_the_provider_is_learnt(
    console: Console, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(console)
    monkeypatch.setattr("console.auth.oidc.KEYS_KEPT_AT_LEAST", 0.0)
    provider.key = RSAKey.generate_key(2048, {"kid": "second", "use": "sig"}, private=True)
    assert sign_in(console)[1].url.path == "/circuit-breaker"


def test_a_provider_that_is_down_is_said_and_passwords_still_work(
    make_console: MakeConsole, provider: IdentityProvider
) -> None:
    console = make_console(timeout=0.4)
    provider.hangs.set()
    with in_time(0.4):
        visitor, answer = sign_in(console)
    assert answer.status_code == 503
    assert "gave no answer within 0.4 s" in answer.text and "`breaker kill`" in answer.text
    visitor.sign_in(console.user("rita", Role.RISK_MANAGER))
    assert visitor.get("/audit").url.path == "/audit"
    elsewhere = make_console(issuer=f"http://127.0.0.1:{free_port()}")
    assert sign_in(elsewhere)[1].status_code == 503


def test_a_provider_lost_on_the_way_back_is_said(make_console: MakeConsole, provider: IdentityProvider) -> None:
    console = make_console(timeout=0.4)

    def hang(claims: Claims) -> Claims:
        provider.hangs.set()
        time.sleep(0.6)
        return claims

    provider.change = hang
    assert sign_in(console)[1].status_code == 503
    assert console.visitor().get("/login").status_code == 200


def test_somebody_the_provider_refuses_is_told_so(console: Console, provider: IdentityProvider) -> None:
    provider.refuses = True
    visitor, answer = sign_in(console)
    assert turned_away(visitor, answer)
    assert "access_denied" in answer.text
    assert recorded(console, "SIGN_IN_FAILED")[0].outcome == "DENIED"


def test_tokens_of_somebody_rest_when_the_provider_vouches_no_more(
    console: Console, provider: IdentityProvider
) -> None:
    sign_in(console)
    text, _ = console.identities.tokens.create("olga", "laptop", [Permission.TRIP_CIRCUIT, Permission.VIEW_CIRCUIT], 30)
    asking = httpx.Client(base_url=console.url, headers={"Authorization": f"Bearer {text}"})
    assert asking.get("/api/v1/circuit-breaker").status_code == 200
    provider.person["groups"] = []
    sign_in(console)
    assert asking.get("/api/v1/circuit-breaker").status_code == 401
    provider.person["groups"] = ["desk"]
    sign_in(console)
    assert asking.get("/api/v1/circuit-breaker").status_code == 200


def test_without_a_provider_its_people_and_addresses_are_gone(
    make_console: MakeConsole, make_settings: MakeSettings, redis_server: EmbeddedRedis
) -> None:
    console = make_console()
    visitor, _ = sign_in(console)
    cookie = visitor.cookies["breaker_session"]
    console.stop()
    with Console(make_settings(redis_server.url)) as plain:
        other = plain.visitor()
        other.cookies.set("breaker_session", cookie, domain="127.0.0.1", path="/")
        assert other.get("/circuit-breaker").url.path == "/login"
        assert "/oidc/" not in other.get("/login").text
        assert other.get("/oidc/login").status_code == 404


def test_the_provider_is_asked_again_after_the_sessions_lifetime(make_console: MakeConsole) -> None:
    console = make_console(session_lifetime=0.3)
    visitor, _ = sign_in(console)
    eventually(lambda: visitor.get("/circuit-breaker").url.path == "/login")


# --- attempts to get in -----------------------------------------------------------------------------------------------


def test_an_id_token_that_the_provider_did_not_sign_opens_nothing(console: Console, provider: IdentityProvider) -> None:
    forgers = (
        provider.unsigned,
        provider.signature_removed,
        provider.payload_changed,
        provider.signed_by_another,
        provider.signed_by_the_public_key,
        provider.no_token,
    )
    for n, forger in enumerate(forgers):
        provider.sign = forger
        visitor, answer = sign_in(console, n)
        assert turned_away(visitor, answer), forger.__name__
        assert "can&#39;t be trusted" in answer.text
    assert [row.outcome for row in recorded(console, "SIGN_IN_FAILED")] == ["DENIED"] * len(forgers)
    assert not recorded(console, "SIGNED_IN")


LIES: tuple[Claims, ...] = (
    {"nonce": "another"},
    {"nonce": None},
    {"aud": "another client"},
    {"aud": [CLIENT, "another client"]},
    {"aud": CLIENT, "azp": "another client"},
    {"iss": "https://evil.example"},
    {"exp": 1},
    {"exp": None},
    {"exp": "never"},
    {"iat": 4_000_000_000},
    {"nbf": 4_000_000_000},
    {"sub": ""},
    {"sub": None},
)


def test_an_id_token_for_another_time_place_or_person_opens_nothing(
    console: Console, provider: IdentityProvider
) -> None:
    for n, lie in enumerate(LIES):
        provider.change = lambda claims, lie=lie: {  # type: ignore[misc]
            name: value for name, value in (claims | lie).items() if value is not None
        }
        assert turned_away(*sign_in(console, n)), lie
    assert not recorded(console, "SIGNED_IN")


def test_an_answer_of_another_sign_in_opens_nothing(console: Console, provider: IdentityProvider) -> None:
    """A victim led to the attacker's own code, or the attacker to the victim's."""
    attacker, victim = console.visitor(), console.visitor()
    first = httpx.get(attacker.get("/oidc/login", follow_redirects=False).headers["location"]).headers["location"]
    answer = victim.get(first)
    assert turned_away(victim, answer), "that browser began no sign-in"
    victim.get("/oidc/login", follow_redirects=False)
    assert turned_away(victim, victim.get(first)), "it began another"
    victim.get("/oidc/login", follow_redirects=False)
    forged = first.replace("state=", "state=x")
    assert turned_away(victim, victim.get(forged))


def test_a_code_used_twice_opens_nothing(console: Console) -> None:
    visitor = console.visitor()
    begun = visitor.get("/oidc/login", follow_redirects=False)
    cookie = begun.headers["set-cookie"].partition(";")[0]
    back = httpx.get(begun.headers["location"]).headers["location"]
    assert visitor.get(back).url.path == "/circuit-breaker"
    thief = Visitor(console.url)
    assert turned_away(thief, thief.get(back)), "the address alone"
    answer = thief.get(back, headers={"Cookie": cookie})
    assert turned_away(thief, answer), "with the cookie stolen too"
    assert "invalid_grant" in answer.text


def test_a_sign_in_cookie_of_somebodys_own_making_opens_nothing(console: Console) -> None:
    for cookie in ("", "x", "e30=.abc", "ü", "x" * 3_000):
        visitor = console.visitor()
        headers = {b"Cookie": b"breaker_oidc=" + cookie.encode()}
        assert turned_away(visitor, visitor.get("/oidc/callback?code=x&state=x", headers=headers)), cookie


def test_a_session_planted_before_signing_in_by_the_provider_ends(console: Console) -> None:
    planted = console.visitor(Role.VIEWER).cookies["breaker_session"]
    visitor = console.visitor()
    begun = visitor.get("/oidc/login", follow_redirects=False)
    back = httpx.get(begun.headers["location"]).headers["location"]
    visitor.cookies.set("breaker_session", planted, domain="127.0.0.1", path="/")
    cookies = f"breaker_session={planted}; {begun.headers['set-cookie'].partition(';')[0]}"
    answer = visitor.get(back, headers={"Cookie": cookies}, follow_redirects=False)
    fresh = next(value for value in answer.headers.get_list("set-cookie") if value.startswith("breaker_session="))
    assert planted not in fresh and "HttpOnly" in fresh
    other = Visitor(console.url)
    other.cookies.set("breaker_session", planted, domain="127.0.0.1", path="/")
    assert other.get("/circuit-breaker").url.path == "/login"


def test_somebody_without_a_mapped_group_is_nobody(console: Console, provider: IdentityProvider) -> None:
    for n, groups in enumerate(([], ["guests"], "guests", None, {"desk": True}, [["desk"]], ["DESK"])):
        provider.person["groups"] = groups
        assert turned_away(*sign_in(console, n)), groups
    assert [user.name for user in console.identities.users.all()] == ["admin"]
    assert {row.user_id for row in recorded(console, "SIGN_IN_FAILED")} == {"olga"}


def test_a_group_that_was_taken_away_takes_its_sessions_along(console: Console, provider: IdentityProvider) -> None:
    before, _ = sign_in(console)
    provider.person["groups"] = []
    assert turned_away(*sign_in(console))
    assert before.get("/circuit-breaker").url.path == "/login"


def test_a_lesser_group_is_a_lesser_role_at_once(console: Console, provider: IdentityProvider) -> None:
    provider.person["groups"] = ["risk", "desk"]
    before, _ = sign_in(console)
    assert before.get("/circuit-breaker/reset").status_code == 200
    provider.person["groups"] = ["desk"]
    sign_in(console)
    assert before.get("/circuit-breaker/reset").status_code == 403


def test_a_name_chosen_at_the_provider_takes_over_no_account(console: Console, provider: IdentityProvider) -> None:
    for name in ("admin", "ADMIN", " admin "):
        provider.person["preferred_username"] = name
        visitor, answer = sign_in(console)
        assert turned_away(visitor, answer), name
        assert "belongs to somebody else" in answer.text


def test_another_person_of_the_same_name_is_another(console: Console, provider: IdentityProvider) -> None:
    sign_in(console)
    provider.person["sub"] = "4711"
    assert turned_away(*sign_in(console))


def test_a_person_keeps_the_name_under_which_they_are_on_record(console: Console, provider: IdentityProvider) -> None:
    sign_in(console)
    provider.person["preferred_username"] = "somebody.else"
    _, answer = sign_in(console)
    assert "<b>olga</b>" in answer.text


def test_a_name_that_could_be_mistaken_is_refused(console: Console, provider: IdentityProvider) -> None:
    names: tuple[object, ...] = ("=cmd()", "аdmin", "a\nb", "<script>alert(1)", "", "x" * 200, 7, None, ["olga"])
    for n, name in enumerate(names):
        provider.person["preferred_username"] = name
        visitor, answer = sign_in(console, n)
        assert turned_away(visitor, answer), name
        assert "<script>alert" not in answer.text


def test_whom_an_admin_removed_stays_out(console: Console) -> None:
    visitor, _ = sign_in(console)
    console.identities.users.remove("olga")
    assert visitor.get("/circuit-breaker").url.path == "/login"
    assert turned_away(*sign_in(console))


def test_signing_in_by_the_provider_never_leads_to_another_site(console: Console) -> None:
    for wanted in ("https://evil.example", "//evil.example", "/\\evil.example"):
        _, answer = sign_in(console, params={"next": wanted})
        assert str(answer.url).startswith(console.url)


def test_the_way_back_is_the_configured_one_whatever_host_is_asked_for(
    console: Console, provider: IdentityProvider
) -> None:
    headers = {"Host": "localhost", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    answer = httpx.get(f"{console.url}/oidc/login", headers=headers, follow_redirects=False)
    assert "evil" not in answer.headers["location"]
    httpx.get(answer.headers["location"])
    assert provider.asked[-1]["redirect_uri"] == f"{console.url}/oidc/callback"


def test_guessing_codes_is_slowed_down(console: Console) -> None:
    answers = []
    for _ in range(7):
        visitor = console.visitor()
        state = httpx.URL(visitor.get("/oidc/login", follow_redirects=False).headers["location"]).params["state"]
        answers.append(visitor.get("/oidc/callback", params={"code": "guess", "state": state}).status_code)
    assert answers == [403] * 5 + [429] * 2


def test_a_provider_that_calls_itself_otherwise_is_not_believed(console: Console, provider: IdentityProvider) -> None:
    provider.named_issuer = "https://evil.example"
    assert sign_in(console)[1].status_code == 503


# --- what decides, without anything running ---------------------------------------------------------------------------


def oidc(**changes: Any) -> OidcSettings:
    usual: dict[str, Any] = {"issuer": "https://id.example", "client_id": "c", "client_secret": "s"}
    return OidcSettings.model_validate(usual | {"public_url": "https://breaker.example/", "roles": ROLES} | changes)


@pytest.mark.parametrize(
    "groups, role",
    [
        (["desk", "chiefs", "risk"], Role.ADMIN),
        (["risk", "desk"], Role.RISK_MANAGER),
        ("desk", Role.OPERATOR),
        (["admin"], None),
        (["operator"], None),
        ([], None),
        (None, None),
        ([7, {"desk": 1}], None),
    ],
)
def test_the_highest_mapped_group_counts_and_no_other(groups: object, role: Role | None) -> None:
    assert role_of({"groups": groups}, oidc()) == role
    assert role_of({"groups": groups}, oidc(unmapped="viewer")) == (role or Role.VIEWER)


def test_a_claim_may_lie_deeper_or_have_dots_in_its_name() -> None:
    assert role_of({"realm_access": {"roles": ["desk"]}}, oidc(role_claim="realm_access.roles")) is Role.OPERATOR
    assert role_of({"https://x.example/roles": ["desk"]}, oidc(role_claim="https://x.example/roles")) is Role.OPERATOR
    assert role_of({"realm_access": "desk"}, oidc(role_claim="realm_access.roles")) is None


def test_an_unverified_address_is_no_name() -> None:
    claims = {"sub": "1", "email": "olga@example.com", "groups": ["desk"]}
    with pytest.raises(Exception, match="verified"):
        person_of(claims, oidc(name_claim="email"))
    assert person_of(claims | {"email_verified": True}, oidc(name_claim="email")).name == "olga@example.com"


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "http://id.example"},
        {"public_url": "http://breaker.example"},
        {"public_url": "https://breaker.example/console"},
        {"public_url": "https://a:b@breaker.example"},
        {"issuer": "https://"},
        {"roles": {"desk": "root"}},
        {"scopes": ["profile"]},
        {"unmapped": "admin"},
    ],
    ids=str,
)
def test_settings_that_would_open_a_door_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        oidc(**change)


def test_the_last_admin_with_a_password_stays(console: Console) -> None:
    known = Identities(console.ledger, oidc=console.settings.console.oidc)
    known.provider_accounts.sign_in(ProviderIdentity("x", "1", "boss", Role.ADMIN), "127.0.0.1")
    with pytest.raises(AccountConflict, match="last admin"):
        known.users.remove("admin")
