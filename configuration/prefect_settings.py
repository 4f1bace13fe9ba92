"""What there is to say of Prefect that its own settings don't, or that all hosts have to agree on."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, field_validator


class PrefectSettings(BaseModel):
    """What Prefect keeps, for all hosts alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    result_storage: str = ""
    """Where results of a recovery's steps are kept, which all its hosts share: a directory (`/mnt/results`), a URL of
    fsspec (`s3://bucket/results`) or a block (`type/name`). Each host's own `PREFECT_HOME` unless given."""

    @field_validator("result_storage")
    @classmethod
    def _is_a_place(cls, value: str) -> str:
        if not value or value.startswith("/"):
            return value
        if "://" in value:
            if "@" in urlsplit(value).netloc:
                raise ValueError("a URL here is shown to people: give credentials by the environment or by a block")
            return value
        if value.count("/") != 1 or not all(value.split("/")):
            raise ValueError("name a directory from the root, a URL, or a block as `type/name`")
        return value
