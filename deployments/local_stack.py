"""Start what a breaker needs on this machine: a Redis, a paper exchange with a book, a Prefect server."""

from __future__ import annotations

import os
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from breaker.keys import GLOBAL
from configuration.locations import LACKING
from configuration.settings import GivenSettings
from deployments.account_sections import alpaca_section
from sandbox.embedded_redis import EmbeddedRedis
from sandbox.exchange import scenario
from sandbox.exchange.server import PaperExchange
from sandbox.prefect_server import PrefectServer
from tasks.initialization import initialize

SCENARIO = Path(__file__).with_name("demo_scenario.toml")
SHELL_LACKS = "BREAKER_CONFIG PREFECT_API_URL"
"""Of what a command needs to act on it: what has to be printed with a command that people paste."""
CONFIGURATION = """\
environment = "demo"
redis_url = "{redis}"
state_dir = "{state}"
{keys}
{accounts}{sections}"""


@dataclass(frozen=True, slots=True)
class LocalStack:
    """What runs, and the directory of its data and its configuration."""

    home: Path
    redis: EmbeddedRedis
    exchange: PaperExchange
    prefect: PrefectServer

    @property
    def configuration(self) -> Path:
        return self.home / "breaker.toml"

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to act on it."""
        return {"BREAKER_CONFIG": str(self.configuration), **self.prefect.environment}

    @property
    def process_environment(self) -> dict[str, str]:
        """For a process of the stack: nothing that is configured elsewhere, such as another account, reaches it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREAKER_", "PREFECT_"))}
        return {**kept, **self.environment, LACKING: SHELL_LACKS}

    def configure(self, keys: str = "", sections: str = "", accounts: str = "") -> None:
        """Write the configuration, with these top-level keys and these sections beside its own.

        Args:
            accounts: their sections; only `PAPER`, at the exchange, unless given.
        """
        text = CONFIGURATION.format(
            redis=self.redis.url,
            state=self.home / "state",
            keys=keys,
            accounts=accounts or alpaca_section("PAPER", self.exchange.url),
            sections=sections,
        )
        self.configuration.write_text(text, encoding="utf-8")

    def initialize(self, by: str) -> None:
        """Let it trade, unless it was halted when it was up before. Raises BreakerError, LedgerError."""
        configured = tomllib.loads(self.configuration.read_text(encoding="utf-8"))
        initialize(GivenSettings(**configured), GLOBAL, by=by, source="cli")


def start_stack(
    started: ExitStack,
    home: Path,
    book: scenario.Scenario,
    *,
    redis_port: int | None = None,
    prefect_port: int | None = None,
) -> LocalStack:
    """All of it, until `started` is closed; the breaker is not initialised yet. Ports are free ones unless given.

    Raises BreakerError or PaperExchangeFailed when something doesn't start.
    """
    prefect = PrefectServer(home / "prefect", port=prefect_port)
    started.callback(prefect.stop)
    prefect.start()
    redis = started.enter_context(EmbeddedRedis(home / "redis", port=redis_port))
    exchange = started.enter_context(PaperExchange(book))
    prefect.wait()
    return LocalStack(home, redis, exchange, prefect)
