"""A database user in the two roles that the migrations make, and in nothing else, runs the console and all it calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from breaker import CircuitBreaker
from console.auth.permissions import Role
from console.auth.schema import upgrade as upgrade_console
from ledger.ledger import Ledger
from ledger.queries import Filter
from ledger.record import AuditRecord
from ledger.schema import upgrade
from ledger.verify import verify
from sandbox.embedded_redis import EmbeddedRedis
from tasks.checks.conditions import measure_database
from tasks.checks.measurement import Colour
from tests.console.conftest import MakeSettings
from tests.console.harness import PASSWORD, REASON, Console, Visitor
from tests.helpers import eventually
from tests.ledger.servers import Postgres


@pytest.fixture
def modest_url(postgres: Postgres, postgres_url: str) -> Iterator[str]:
    """A migrated database, as a user who owns nothing of it."""
    ledger = Ledger.connect(postgres_url)
    upgrade(ledger)
    upgrade_console(ledger)
    ledger.close()
    database = postgres_url.rsplit("/", maxsplit=1)[-1]
    user = f"service_{database}"
    postgres.execute(database, f"CREATE USER {user} IN ROLE breaker_audit, breaker_console")
    yield postgres_url.replace("postgres@", f"{user}@")
    postgres.execute(database, f"DROP ROLE {user}")


async def test_the_console_the_api_the_users_and_the_verification_of_the_database_work(
    make_settings: MakeSettings, redis_server: EmbeddedRedis, redis_client: redis.Redis, modest_url: str
) -> None:
    CircuitBreaker(redis_client).initialize_state()
    settings = make_settings(redis_server.url, database_url=SecretStr(modest_url))
    with Console(settings) as console:
        identities = console.identities
        identities.users.add("ada", Role.OPERATOR, PASSWORD)
        ada = Visitor(console.url)
        assert ada.sign_in("ada", "a wrong guess").status_code == 401
        assert "ada" in ada.sign_in("ada").text
        with console.api(Role.OPERATOR) as program:
            tripped = program.post("/circuit-breaker/trip", json={"reason": REASON, "acknowledge": True})
            assert tripped.status_code < 300, tripped.text
        on_record = eventually(lambda: console.ledger.query(Filter(actions=("CIRCUIT_BREAKER_TRIP",))).rows)
        assert len(on_record) == 1
        assert REASON in ada.get("/audit").text
        identities.users.remove("ada")
        assert "Sign in" in ada.get("/audit").text
        assert verify(console.ledger).problem is None
    assert (await measure_database(settings)).colour is Colour.GREEN


def test_it_may_not_change_a_row_of_the_ledger(modest_url: str) -> None:
    ledger = Ledger.connect(modest_url)
    ledger.append([AuditRecord(action="KILL_SWITCH_STARTED", source="cli", id="a")])
    with pytest.raises(ProgrammingError, match="permission denied"), ledger.engine.begin() as connection:
        connection.execute(text("UPDATE audit_log SET action = 'NOTHING'"))
    ledger.close()
