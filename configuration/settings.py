"""Read the configuration from `breaker.toml` and `BREAKER_*` environment variables, checked once at start.

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
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
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

from breaker.errors import BreakerError
from breaker.limits import Rule
from configuration.console import ConsoleSettings
from configuration.field_types import Seconds


def default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "breaker"


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


class ConfigurationError(BreakerError):
    """The configuration cannot be used; the message names the file or variable, the key and what is wrong."""


class AccountSettings(BaseModel):
    """One account at one venue. `adapter` names an entry point of the group `breaker.brokers`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    adapter: str = "alpaca"
    base_url: str = Field(pattern=r"^https?://[^\s]+$")
    key_id: SecretStr
    secret_key: SecretStr
    request_timeout: Seconds = 5.0
    """Longest wait for one answer of the venue, in seconds."""
    requests_per_minute: int = Field(default=200, gt=0)
    """The venue's limit for this account; what it says in its own headers wins."""


class KillSettings(BaseModel):
    """How the kill switch paces itself; all times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    deadline: Seconds = 300.0
    """After this long it reports what is not flat instead of going on."""
    first_sweep_timeout: Seconds = 6.0
    cancel_patience: Seconds = 5.0
    """How long cancels may make no progress before flattening starts beside them."""
    poll_interval: Seconds = 0.1
    """Between two readings of a book that changes; one that doesn't is read ever less often."""
    escalate_after: Seconds = 3.0
    """How long a close may stand unfilled before it is replaced by a more aggressive one."""
    collars: tuple[Decimal, ...] = (Decimal("0.02"), Decimal("0.05"), Decimal("0.10"))
    """How far past the last price each marketable limit may go, as fractions of it."""
    retry_backoff: Seconds = 1.0
    retry_backoff_max: Seconds = 15.0
    """Bounds of the wait before a refused close is tried again; it doubles from the first to the second."""
    stuck_after: Seconds = 30.0
    """Once only positions remain that the venue refuses to close, how long they are retried before they are stuck."""
    settle: Seconds = 1.0
    """Time between the two readings of the venue that must agree before the book is called flat."""
    guard: Annotated[float, Field(ge=0, le=3_600)] = 5.0
    """How long the book is swept on after it was flat, because fills may arrive late."""
    orchestrator_wait: Seconds = 2.0
    """How long a configured Prefect API may take before the procedure runs without it.

    Without one Prefect starts a temporary server, which takes many seconds; that is never waited for.
    """
    record_wait: Seconds = 20.0
    """How long, after everything is done and said, a late orchestrator may take to be told about it."""


class LogSettings(BaseModel):
    """Where the last lines of a service's log are found; exactly one of the three."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path | None = None
    journal: str | None = None
    """A systemd unit."""
    docker: str | None = None
    """A container's name."""
    lines: int = Field(default=200, gt=0, le=10_000)

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
    slow_after: Seconds = 0.5
    """An answer that takes longer is yellow."""
    log: LogSettings | None = None


class QueueSettings(BaseModel):
    """One queue whose backlog counts: a Redis list or stream by `key`, or a Prometheus query."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str | None = None
    query: str | None = None
    limit: int = Field(gt=0)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.key is None) == (self.query is None):
            raise ValueError("name exactly one of key, query")
        return self


class LatencySettings(BaseModel):
    """One latency: a Prometheus query that answers in seconds, and its limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str
    limit: Seconds


class RecoverySettings(BaseModel):
    """What a recovery measures, against which limits, and who may decide; times in seconds.

    Drawdown, API errors and the age of data have the limits of the automatic trips, under `rules`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    two_person: bool = True
    """Whoever approves the reset neither tripped nor wrote the root cause."""
    people: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Permissions by name, such as `ada = ["APPROVE_RECOVERY", "RESET_CIRCUIT"]`. Nobody has any unless named."""
    watch: Seconds = 300.0
    watch_interval: Seconds = 5.0
    condition_deadline: Seconds = 600.0
    """How long conditions are measured again and again until they are green or yellow, before a person is asked."""
    condition_interval: Seconds = 5.0
    remind_after: Seconds = 900.0
    max_position_notional: Decimal | None = Field(default=None, gt=0)
    """Per position, in the account's currency; not judged unless given."""
    feeds: tuple[str, ...] = ()
    """Whose heartbeats the scheduled verification judges."""
    redis_latency: Seconds = 0.05
    replication_lag: Seconds = 5.0
    """How long a replica of Redis may not have confirmed anything."""
    database_latency: Seconds = 0.25
    services: Mapping[str, ServiceSettings] = Field(default_factory=dict)
    queues: Mapping[str, QueueSettings] = Field(default_factory=dict)
    latencies: Mapping[str, LatencySettings] = Field(default_factory=dict)
    prometheus_url: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    panels: Mapping[str, str] = Field(default_factory=dict)
    """Prometheus queries whose course around the trip belongs to the evidence, by name."""
    deployment_lock: str = "circuit_breaker:deployment_lock"
    """A Redis key that a deployment holds while it runs; present means conflict."""
    console_url: str | None = None
    """Linked from notifications."""


class RuleSettings(BaseModel):
    """The automatic trips of one scope (runbook, *Automatic Trips*): seconds, and fractions of the equity."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    api_errors: int = Field(default=10, ge=0)
    api_error_window: Seconds = 300.0
    drawdown: Decimal = Field(default=Decimal("0.05"), gt=0, lt=1)
    data_age: Seconds = 1_800.0
    daily_loss: Decimal | None = Field(default=None, gt=0, lt=1)
    consecutive_rejections: int | None = Field(default=None, ge=0)
    confirmations: Mapping[Rule, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """How many measurements in a row have to be beyond the limit; 1 unless given."""
    dry_run: tuple[Rule, ...] = ()
    """Rules that only record what they would have done."""
    off: tuple[Rule, ...] = ()


class NotificationSettings(BaseModel):
    """Where people are told. Any Apprise URL works; they may hold tokens, so they are secrets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slack: SecretStr | None = None
    pagerduty: SecretStr | None = None
    """An Events API v2 integration key; incidents are opened and resolved by the breaker's incident id."""
    pagerduty_url: str = Field(default="https://events.pagerduty.com/v2/enqueue", pattern=r"^https?://[^\s]+$")
    others: tuple[SecretStr, ...] = ()
    timeout: Seconds = 5.0
    """Longest that telling people of one thing may take."""

    @property
    def any_channel(self) -> bool:
        """Whether any channel is configured."""
        return bool(self.slack or self.pagerduty or self.others)


class DrillSettings(BaseModel):
    """The rehearsal of the whole circle, on a paper account of its own; the kill's paces are production's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: float = Field(default=604_800.0, ge=3_600, le=31_536_000)
    """Seconds between two scheduled drills; a week unless given."""
    orders: int = Field(default=200, ge=1, le=10_000)
    positions: int = Field(default=60, ge=1, le=2_000)
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

    redis_url: SecretStr = SecretStr("redis://localhost:6379/0")
    redis_timeout: Seconds = 2.0
    """Longest wait for one transition or reading of the breaker, retries included."""
    state_dir: Annotated[Path, AfterValidator(_absolute)] = Field(
        default_factory=default_state_dir, validate_default=True
    )
    """Where reports, the journal and the spool are kept when nothing else can be reached."""
    database_url: SecretStr | None = None
    """The ledger's database; an SQLite file in `state_dir` unless named."""
    ledger_key: SecretStr | None = None
    """Makes the ledger's chain one of HMACs, which only its holders extend or verify. From the first row or never."""
    quiet_period: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    trip_durability: Literal["local", "aof", "replicas"] = "local"
    """How far a trip is followed before it is reported: Redis's memory, its disk, or `trip_replicas` replicas."""
    trip_replicas: int = Field(default=1, ge=1, le=100)
    accounts: Mapping[str, AccountSettings] = Field(default_factory=dict)
    kill: KillSettings = KillSettings()
    console: ConsoleSettings = ConsoleSettings()
    recovery: RecoverySettings = RecoverySettings()
    rules: Mapping[str, RuleSettings] = Field(default_factory=dict)
    """By scope; a scope that is not named has those of `global`."""
    notifications: NotificationSettings = NotificationSettings()
    drill: DrillSettings = DrillSettings()

    @property
    def pending_trips_dir(self) -> Path:
        """Where trips wait that Redis could not be told of."""
        return self.state_dir / "pending_trips"

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
    def _redis_url_is_usable(self) -> Self:
        if not self.redis_url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("redis_url must start with redis://, rediss:// or unix://")
        try:
            urlsplit(self.redis_url.get_secret_value()).port  # noqa: B018  reading it is what checks it
        except ValueError:
            raise ValueError("redis_url has no usable port") from None
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


def configuration_file() -> Path:
    """The file that is read: `BREAKER_CONFIG`, else `breaker.toml` in the working directory."""
    return Path(os.environ.get("BREAKER_CONFIG", "breaker.toml"))


def load_settings() -> Settings:
    """Read and check the configuration.

    Raises:
        ConfigurationError: the file is named but missing, cannot be parsed, or a value is not acceptable.
    """
    file = configuration_file()
    if "BREAKER_CONFIG" in os.environ and not file.is_file():
        raise ConfigurationError(f"BREAKER_CONFIG names {file}, which is not a file; correct the path or unset it")
    try:
        return Settings()
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}; nothing was changed, correct the file") from None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}; nothing was changed") from None
    except SettingsError as error:
        raise ConfigurationError(f"a BREAKER_* variable cannot be read: {error}; nothing was changed") from None
    except ValidationError as error:
        raise ConfigurationError(_one_line(error, file)) from None


def _one_line(error: ValidationError, file: Path) -> str:
    """Every complaint with its key; the offending values are left out, since they may be secrets."""
    complaints = "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'settings'}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False, include_context=False)
    )
    return (
        f"configuration ({file} and BREAKER_* variables): {complaints}; nothing was changed, correct it and try again"
    )
