"""The judgement that a soak's verdict rests on: a leak is called one, and noise, warm-up and a restart are not."""

from __future__ import annotations

from random import Random

from proofs.soak.trend import MIB, Quantity, Sample, trends

HOUR = range(0, 3600, 30)


def sample(at: float, *, part: str = "console", pid: int = 1, started: float = 0.0, **values: int) -> Sample:
    usual = {"rss": 200 * MIB, "files": 30, "connections": 8, "threads": 12, "children": 0}
    return Sample(part, pid, started, at, **{**usual, **values})


def growing(samples: list[Sample]) -> set[Quantity]:
    return {trend.quantity for trend in trends(samples, warm_up=120, least=12) if trend.grows}


def test_a_file_kept_open_every_minute_and_a_mebibyte_a_minute_are_leaks() -> None:
    assert growing([sample(at, files=30 + int(at) // 60) for at in HOUR]) == {"files"}
    assert growing([sample(at, rss=200 * MIB + int(at) // 60 * MIB) for at in HOUR]) == {"rss"}
    assert growing([sample(at, threads=12 + int(at) // 300) for at in HOUR]) == {"threads"}


def test_noise_around_a_level_is_none() -> None:
    random = Random(7)
    assert not growing(
        [
            sample(
                at,
                rss=200 * MIB + random.randrange(20 * MIB),
                files=30 + random.randrange(10),
                children=random.randrange(3),
            )
            for at in HOUR
        ]
    )


def test_what_a_process_takes_in_its_first_two_minutes_is_its_base_line() -> None:
    assert not growing([sample(at, rss=80 * MIB if at < 120 else 300 * MIB) for at in HOUR])


def test_a_restarted_process_is_judged_from_its_own_start() -> None:
    before = [sample(at, files=10) for at in HOUR if at < 1500]
    after = [sample(at, pid=2, started=1500, files=40) for at in HOUR if at >= 1500]
    assert not growing(before + after)
    leaking = [sample(at, pid=2, started=1500, files=40 + int(at - 1500) // 60) for at in HOUR if at >= 1500]
    assert growing(before + leaking) == {"files"}


def test_a_life_too_short_to_tell_is_not_judged() -> None:
    assert trends([sample(at, files=int(at)) for at in HOUR[:10]], warm_up=120, least=12) == []
