"""Configuration: `breaker.toml` and `BREAKER_*` environment variables, checked once at start.

The environment wins over the file. Nested keys are joined by two underscores: `BREAKER_ACCOUNTS__ALPHA__SECRET_KEY`.
An account's name is upper-cased, so that file and environment agree on it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from breaker.errors import BreakerError, InvalidInput
from configuration.accounts import AccountSettings, check_clients_apart
from configuration.complaints import describe_complaints
from configuration.console import ConsoleSettings
from configuration.locations import absolute, configuration_file, default_state_dir, not_empty
from configuration.monitor import (
    FeedSettings,
    MonitorSettings,
    check_feed_names,
    check_monitored_apart,
    check_rule_scopes,
)
from configuration.prefect_settings import PrefectSettings
from configuration.redis_settings import DEFAULT_URL, Durable, RedisSettings, compose_redis_url, default_durability
from configuration.rules import RuleSettings
from configuration.units import Seconds, Unit


class ConfigurationError(BreakerError):
    """The configuration cannot be used; the message names the file or variable, the key and what is wrong."""


class KillSettings(BaseModel):
    """How the kill switch paces itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    deadline: Seconds = 300.0
    """After this long it reports what is not flat instead of going on; an answer that is under way has 3 s more."""
    first_sweep_timeout: Seconds = 6.0
    """Longest that the first cancel of everything, beside the trip, is waited for."""
    cancel_patience: Seconds = 5.0
    """How long cancels may make no progress before flattening starts beside them."""
    poll_interval: Seconds = 0.1
    """Between two readings of a book that changes; one that doesn't is read ever less often."""
    escalate_after: Seconds = 3.0
    """How long a close may stand unfilled before it is replaced by a more aggressive one."""
    collars: Annotated[tuple[Decimal, ...], Unit("fraction")] = (Decimal("0.02"), Decimal("0.05"), Decimal("0.10"))
    """How far past the last price each marketable limit may go, one after the other."""
    retry_backoff: Seconds = 1.0
    """The wait before a refused close is tried again; it doubles with each refusal."""
    retry_backoff_max: Seconds = 15.0
    """The longest such wait."""
    stuck_after: Seconds = 30.0
    """Once only positions remain that the venue refuses to close, how long they are retried before they are stuck."""
    refusal_patience: Seconds = 5.0
    """How long the venue may refuse the keys, or the account, before that is believed and the account given up."""
    cancel: Literal["auto", "all", "protective_last"] = "auto"
    """Which orders are cancelled at once: all, or all but the stops and take-profits that protect a position until its
    own close is about to be sent. `auto` is the latter where the rate limit has room for it."""
    dust: Literal["report", "fail"] = "report"
    """Whether a position below the venue's minimum, which nobody can close, counts against flat."""
    venue_lock: bool = False
    """Whether an account that is flat is locked at its venue, where that has a lock, until the breaker is reset."""
    settle: Seconds = 1.0
    """Time between the two readings of the venue that must agree before the book is called flat."""
    guard: Annotated[float, Field(ge=0, le=3_600), Unit("seconds")] = 5.0
    """How long the book is swept on after it was flat, because fills may arrive late."""
    orchestrator_wait: Seconds = 2.0
    """How long a configured Prefect API may take before the procedure runs without it.

    Without one Prefect starts a temporary server, which takes many seconds; that is never waited for.
    """
    record_wait: Seconds = 20.0
    """How long, after everything is done and said, a late orchestrator may take to be told about it."""
    resume_patience: Seconds = 30.0
    """How long a pending exit that is due waits for the orchestrator before a standby resumes it."""
    accounts_per_worker: Annotated[int | None, Unit("accounts")] = Field(default=None, ge=1)
    """More accounts than these are spread over the work pool's workers, in shares of so many; none unless given."""
    share_starts_within: Seconds = 15.0
    """How long a worker may take to begin such a share before its accounts are closed by whoever asked for it."""


class LogSettings(BaseModel):
    """Where the last lines of a service's log are found; exactly one of the three."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Annotated[Path | None, BeforeValidator(not_empty)] = None
    """A file."""
    journal: str | None = None
    """A systemd unit."""
    docker: str | None = None
    """A container's name."""
    lines: Annotated[int, Unit("lines")] = Field(default=200, gt=0, le=10_000)
    """How many of the last lines are evidence."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(place is not None for place in (self.file, self.journal, self.docker)) != 1:
            raise ValueError("name exactly one of file, journal, docker")
        return self


class ServiceSettings(BaseModel):
    """One service of the trading platform, as the system health check sees it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    """Healthy when it answers with a 2xx status in time."""
    timeout: Seconds = 2.0
    """No answer within it is red."""
    slow_after: Seconds = 0.5
    """An answer that takes longer is yellow."""
    log: LogSettings | None = None
    """Its log, whose last lines are part of the evidence."""


class QueueSettings(BaseModel):
    """One queue whose backlog counts, by exactly one of `key` and `query`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str | None = None
    """The key of a list, stream or sorted set in Redis, whose length counts."""
    query: str | None = None
    """A Prometheus query; of several values the largest counts."""
    limit: Annotated[int, Unit("entries")] = Field(gt=0)
    """More than so many are red."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.key is None) == (self.query is None):
            raise ValueError("name exactly one of key, query")
        return self


class LatencySettings(BaseModel):
    """One latency, as Prometheus knows it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str
    """A Prometheus query that answers in seconds; of several values the largest counts."""
    limit: Seconds
    """Longer is red."""


class RecoverySettings(BaseModel):
    """What a recovery measures, against which limits, and who may decide.

    Drawdown, API errors and the age of data have the limits of the automatic trips, under `rules`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    two_person: bool = True
    """Whoever approves the reset neither tripped nor wrote the root cause."""
    people: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Permissions by name, such as `ada = ["APPROVE_RECOVERY", "RESET_CIRCUIT"]`. Nobody has any unless named."""
    watch: Seconds = 300.0
    """How long conditions are watched after the reset; a red one trips again."""
    watch_interval: Seconds = 5.0
    """Between two measurements of that watch."""
    condition_deadline: Seconds = 600.0
    """How long conditions are measured again and again until they are green or yellow, before a person is asked."""
    condition_interval: Seconds = 5.0
    """Between two of these measurements."""
    remind_after: Seconds = 900.0
    """People are reminded each time that a recovery has waited for them for so long again."""
    max_position_notional: Annotated[Decimal | None, Unit("account's currency")] = Field(default=None, gt=0)
    """The largest position; not judged unless given."""
    feeds: tuple[str, ...] = ()
    """Whose heartbeats the scheduled verification judges."""
    redis_latency: Seconds = 0.05
    """A slower round trip to Redis is red."""
    replication_lag: Seconds = 5.0
    """How long a replica of Redis may not have confirmed anything."""
    database_latency: Seconds = 0.25
    """A slower round trip to the ledger's database is red."""
    services: Mapping[str, ServiceSettings] = Field(default_factory=dict)
    """The trading platform's services, by name."""
    queues: Mapping[str, QueueSettings] = Field(default_factory=dict)
    """Queues whose backlog counts, by name."""
    latencies: Mapping[str, LatencySettings] = Field(default_factory=dict)
    """Latencies that count, by name."""
    prometheus_url: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    """Where Prometheus answers queries; queues, latencies and panels with a `query` need it."""
    panels: Mapping[str, str] = Field(default_factory=dict)
    """Prometheus queries whose course around the trip belongs to the evidence, by name."""
    deployment_lock: str = "circuit_breaker:deployment_lock"
    """A Redis key that a deployment holds while it runs; present means conflict."""
    console_url: str | None = None
    """Where people reach the console; linked from notifications."""


class NotificationSettings(BaseModel):
    """Where people are told. Any Apprise URL works; they may hold tokens, so they are secrets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slack: SecretStr | None = None
    """A webhook of Slack, or an Apprise URL."""
    pagerduty: SecretStr | None = None
    """An Events API v2 integration key; incidents are opened and resolved by the breaker's incident id."""
    pagerduty_url: str = Field(default="https://events.pagerduty.com/v2/enqueue", pattern=r"^https?://[^\s]+$")
    """Where PagerDuty takes events."""
    pagerduty_warnings: bool = False
    """Whether what comes near a limit opens an alert there, of severity `warning`; it is resolved when that is over."""
    others: tuple[SecretStr, ...] = ()
    """Further places, as Apprise URLs."""
    timeout: Seconds = 5.0
    """Longest that telling people of one thing may take."""

    @property
    def any_channel(self) -> bool:
        """Whether any channel is configured."""
        return bool(self.slack or self.pagerduty or self.others)


class DrillSettings(BaseModel):
    """The rehearsal of the whole circle, on a paper account of its own; the kill's paces are production's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: Annotated[float, Unit("seconds")] = Field(default=604_800.0, ge=3_600, le=31_536_000)
    """Between two scheduled drills; a week unless given."""
    orders: Annotated[int, Unit("orders")] = Field(default=200, ge=1, le=10_000)
    """Open orders of the drill's book."""
    positions: Annotated[int, Unit("positions")] = Field(default=60, ge=1, le=2_000)
    """Positions of the drill's book."""
    watch: Seconds = 10.0
    """How long the drill's reset is watched, and quiet."""


class Settings(BaseSettings):
    """Everything breaker can be told. Unknown keys are refused, so that a typing mistake is not a silent default."""

    model_config = SettingsConfigDict(
        env_prefix="BREAKER_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    environment: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9 _.-]{0,39})?$")
    """What people call what this acts on, such as `production`; shown wherever somebody acts or is told something."""
    redis_url: SecretStr = SecretStr(DEFAULT_URL)
    """Where the breakers' state is: `redis://`, `rediss://`, `unix://` or `redis+sentinel://A,B/MASTER/DATABASE`."""
    redis: RedisSettings = RedisSettings()
    """What else there is to say of Redis, and its Sentinels."""
    redis_timeout: Seconds = 2.0
    """Longest wait for one transition or reading of the breaker, retries included."""
    state_dir: Annotated[Path, AfterValidator(absolute), BeforeValidator(not_empty)] = Field(
        default_factory=default_state_dir, validate_default=True
    )
    """What this host keeps: spool, waiting trips, reports, checkpoints, the console's key, the embedded ledger."""
    database_url: SecretStr | None = None
    """The ledger's database, `postgresql://` or `sqlite:///`; the file `audit.db` in `state_dir` unless named."""
    ledger_key: SecretStr | None = None
    """Makes the ledger's chain one of HMACs, which only its holders extend or verify. From the first row or never."""
    quiet_period: Annotated[float, Field(ge=0, le=86_400), Unit("seconds")] = 300.0
    """How long trading is limited after a reset; 0 for none."""
    trip_durability: Durable = Field(default_factory=default_durability)
    """How far a trip is followed before it is reported: Redis's memory, its disk, or `trip_replicas` replicas."""
    trip_replicas: Annotated[int, Unit("replicas")] = Field(default=1, ge=1, le=100)
    """How many replicas must have a trip where `trip_durability` is `replicas`."""
    accounts: Mapping[str, AccountSettings] = Field(default_factory=dict)
    """The accounts that the kill switch flattens, by name."""
    kill: KillSettings = KillSettings()
    """The kill switch."""
    console: ConsoleSettings = ConsoleSettings()
    """The web console and the exporter."""
    recovery: RecoverySettings = RecoverySettings()
    """The recovery and what it measures."""
    rules: Mapping[str, RuleSettings] = Field(default_factory=dict)
    """The automatic trips by scope; a scope that is not named has those of `global`."""
    monitor: MonitorSettings = MonitorSettings()
    """The monitor of the accounts, which measures what the automatic trips judge."""
    feeds: Mapping[str, FeedSettings] = Field(default_factory=dict)
    """Data whose silence trips, by name: the monitor looks when the newest came."""
    notifications: NotificationSettings = NotificationSettings()
    """Whom to tell."""
    drill: DrillSettings = DrillSettings()
    """The scheduled drill."""
    prefect: PrefectSettings = PrefectSettings()
    """What all hosts share of Prefect."""

    @property
    def environment_name(self) -> str:
        """For people: `unnamed` where the configuration names none."""
        return self.environment or "unnamed"

    @property
    def redis_address(self) -> SecretStr:
        """The address of Redis with all that is configured of it, as an engine, a gate or a sidecar takes it."""
        url = self.redis_url.get_secret_value() if "redis_url" in self.model_fields_set else None
        return SecretStr(compose_redis_url(url, self.redis))

    @property
    def pending_trips_dir(self) -> Path:
        """Where trips wait that Redis could not be told of."""
        return self.state_dir / "pending_trips"

    @property
    def pending_exits_dir(self) -> Path:
        """Where it is kept, beside Redis, what a kill switch could not close."""
        return self.state_dir / "pending_exits"

    @property
    def venue_locks_dir(self) -> Path:
        """Where it is kept, beside Redis, which accounts a kill switch has locked at their venue."""
        return self.state_dir / "venue_locks"

    @property
    def instruments_dir(self) -> Path:
        """Where it is kept what venues said of their instruments."""
        return self.state_dir / "instruments"

    @property
    def markets_dir(self) -> Path:
        """Where it is kept what the exchanges that ccxt speaks to list."""
        return self.state_dir / "markets"

    @field_validator("accounts", mode="before")
    @classmethod
    def _merge_account_names(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        merged: dict[str, Any] = {}
        for name, account in value.items():
            upper = str(name).upper()
            if isinstance(account, Mapping) and isinstance(merged.get(upper), Mapping):
                merged[upper] = {**merged[upper], **account}
            else:
                merged[upper] = account
        return merged

    @model_validator(mode="after")
    def _redis_is_usable(self) -> Self:
        try:
            _ = self.redis_address
        except InvalidInput as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _what_is_monitored_makes_sense(self) -> Self:
        check_clients_apart(self.accounts)
        check_monitored_apart(self.accounts, self.feeds)
        check_feed_names(self.feeds)
        check_rule_scopes(self.rules, self.accounts)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = TomlConfigSettingsSource(settings_cls, toml_file=configuration_file())
        return init_settings, env_settings, file


class GivenSettings(Settings):
    """Reads neither file nor environment: what is configured there stays out of a demo or a drill."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def load_settings() -> Settings:
    """Read and check the configuration.

    Raises:
        ConfigurationError: the file is named but missing, cannot be parsed, or a value is not acceptable.
    """
    file = configuration_file()
    try:
        if "BREAKER_CONFIG" in os.environ and not file.is_file():
            named = f"names {file}, which is not a file" if os.environ["BREAKER_CONFIG"].strip() else "is empty"
            raise ConfigurationError(f"BREAKER_CONFIG {named}; correct the path or unset it")
        return Settings()
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{file} is not UTF-8 (byte {error.start}: 0x{error.object[error.start]:02x}); nothing was changed, save "
            "it as UTF-8"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}; nothing was changed, correct the file") from None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}; nothing was changed") from None
    except SettingsError as error:
        raise ConfigurationError(f"a BREAKER_* variable cannot be read: {error}; nothing was changed") from None
    except ValidationError as error:
        raise ConfigurationError(describe_complaints(error, file)) from None
