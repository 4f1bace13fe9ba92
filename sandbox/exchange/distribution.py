"""Describe how a number of a scenario is drawn: always the same one, uniformly, or log-normally."""

from __future__ import annotations

import math
from random import Random
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Distribution(BaseModel):
    """A plain number, `{low, high}` (uniform) or `{median, sigma, cap}` (log-normal)."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    fixed: float | None = Field(default=None, ge=0)
    low: float | None = Field(default=None, ge=0)
    high: float | None = Field(default=None, ge=0)
    median: float | None = Field(default=None, gt=0)
    sigma: float = Field(default=0.5, ge=0)
    cap: float = Field(default=math.inf, ge=0)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        uniform = self.low is not None and self.high is not None
        if (self.low is None) != (self.high is None) or (uniform and self.low > self.high):  # type: ignore[operator]
            raise ValueError("a uniform distribution needs low and high, with low ≤ high")
        if [self.fixed is not None, uniform, self.median is not None].count(True) != 1:
            raise ValueError("give one of: a number, {low, high}, {median, sigma, cap}")
        return self

    def sample(self, random: Random) -> float:
        if self.fixed is not None:
            return self.fixed
        if self.low is not None and self.high is not None:
            return random.uniform(self.low, self.high)
        assert self.median is not None  # noqa: S101 - the validator allows no fourth kind
        return min(random.lognormvariate(math.log(self.median), self.sigma), self.cap)


def _number_as_distribution(value: object) -> object:
    return {"fixed": value} if isinstance(value, int | float) else value


AnyDistribution = Annotated[Distribution, BeforeValidator(_number_as_distribution)]
