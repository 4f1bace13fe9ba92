"""A rule that hears nothing, or whose measurements are refused on and on, is red; a warning is told once."""

from __future__ import annotations

import redis
from pydantic import SecretStr

from breaker.limits import Limits, Rule
from breaker.rule_requests import Outcome, Verdict
from breaker.rules import Rules
from configuration.settings import Settings
from sandbox.embedded_redis import EmbeddedRedis
from tasks.checks.measurement import Colour
from tasks.checks.probe import Probe
from tasks.checks.rules import (
    check_rules,
    expected_rules,
    judge_rules,
    judged_of,
    limits_in_words,
    refused_in_a_row,
    scopes_of,
)
from tasks.rule_warnings import warning_notification

PROBE = Probe("rules", "limit", "how")
ACCOUNT = {"base_url": "https://paper-api.alpaca.markets", "key_id": "k", "secret_key": "s"}
NOW = 1_795_521_600_000_000


def silence(silent: str, verdict: Verdict = Verdict.OFF) -> Outcome:
    return Outcome(verdict, {"silent": silent, "measured": "700 s", "limit": "600 s"})


def test_silence_is_red_names_who_should_speak_and_yellow_where_nobody_could() -> None:
    assert judge_rules(PROBE, silence(""), {}, True).colour is Colour.GREEN
    red = judge_rules(PROBE, silence("DRAWDOWN, API_ERRORS"), {}, True)
    assert red.colour is Colour.RED
    assert "DRAWDOWN, API_ERRORS heard nothing for 600 s" in red.problem and "record_equity" in red.problem
    assert "was tripped" in judge_rules(PROBE, silence("DRAWDOWN", Verdict.TRIPPED), {}, True).problem
    assert judge_rules(PROBE, silence("DRAWDOWN"), {}, False).colour is Colour.YELLOW
    assert judge_rules(PROBE, None, {}, True).colour is Colour.GREEN


def test_refusals_are_red_once_they_are_no_mishap() -> None:
    def row(count: int, seconds: int) -> dict[str, str]:
        return {"EQUITY": "7", "EQUITY in a row": f"{count} {NOW - seconds * 1_000_000} NaN is no equity"}

    assert refused_in_a_row(row(2, 600), NOW) == refused_in_a_row(row(9, 59), NOW) == {}
    assert refused_in_a_row({"EQUITY in a row": "soon"}, NOW) == {}
    refused = refused_in_a_row(row(3, 60), NOW)
    assert refused == {"EQUITY": "NaN is no equity"}
    found = judge_rules(PROBE, silence(""), refused, True)
    assert found.colour is Colour.RED and "EQUITY: NaN is no equity" in found.problem


def test_another_currency_is_red_from_the_first_and_says_how_to_begin_anew() -> None:
    why = "equity is in EUR and its high-water mark in USD, so neither is compared: re-base"
    refused = refused_in_a_row({"EQUITY_CURRENCY in a row": f"1 {NOW} {why}"}, NOW)
    found = judge_rules(Probe("rules/account:ALPHA", "limit", "how"), silence("DRAWDOWN"), refused, True)
    assert found.colour is Colour.RED
    assert f"{why}, with `breaker equity rebase --reason WHY --scope account:ALPHA`" in found.problem


def test_one_account_is_judged_as_the_desk_and_several_by_themselves() -> None:
    one = Settings.model_validate({"accounts": {"ALPHA": ACCOUNT}})
    assert scopes_of(one) == ["global"]
    assert expected_rules(one, "global") == (Rule.DRAWDOWN, Rule.API_ERRORS)
    rules = {"strategy:meanrev": {"order_rate": 5}, "account:BETA": {"margin": 0.8, "off": ["API_ERRORS"]}}
    two = Settings.model_validate({"accounts": {"ALPHA": ACCOUNT, "BETA": ACCOUNT}, "rules": rules})
    assert set(scopes_of(two)) == {"global", "strategy:meanrev", "account:ALPHA", "account:BETA"}
    assert expected_rules(two, "global") == expected_rules(two, "strategy:meanrev") == ()
    assert expected_rules(two, "account:BETA") == (Rule.DRAWDOWN, Rule.MARGIN)


async def test_a_real_redis_tells_of_silence_and_refusals(
    redis_client: redis.Redis, redis_server: EmbeddedRedis
) -> None:
    settings = Settings.model_validate({"redis_url": redis_server.url, "accounts": {"ALPHA": ACCOUNT}})
    (begun,) = await check_rules(settings)
    assert begun.colour is Colour.GREEN, "it is waited for from now on"
    for rule in (Rule.DRAWDOWN, Rule.API_ERRORS):
        redis_client.hset("circuit_breaker:judged", f"waiting {rule}", NOW - 1_000_000_000_000)
    Rules(redis_client).record_api_success("venue")
    (silent,) = await check_rules(settings)
    assert silent.colour is Colour.RED and silent.problem.startswith("DRAWDOWN heard nothing for 600 s")
    rules = Rules(redis_client)
    rules.record_equity(100)
    assert (await check_rules(settings))[0].colour is Colour.GREEN
    for _ in range(3):
        rules.record_equity("NaN")
    in_a_row = redis_client.hget("circuit_breaker:refused_measurements", "EQUITY in a row")
    assert isinstance(in_a_row, bytes)
    count, _, why = in_a_row.decode().split(" ", 2)
    redis_client.hset("circuit_breaker:refused_measurements", "EQUITY in a row", f"{count} {NOW // 2} {why}")
    assert (await check_rules(settings))[0].problem.startswith("Measurements are refused again and again: EQUITY: NaN")
    rules.record_equity(100)
    assert (await check_rules(settings))[0].colour is Colour.GREEN, "one that is accepted ends the row"


async def test_many_accounts_are_looked_at_in_one_exchange_and_each_by_itself(
    redis_client: redis.Redis, redis_server: EmbeddedRedis
) -> None:
    accounts = {f"A{number}": ACCOUNT for number in range(20)}
    settings = Settings.model_validate({"redis_url": redis_server.url, "accounts": accounts})
    redis_client.hset("circuit_breaker:judged:account:A7", "waiting DRAWDOWN", NOW - 1_000_000_000_000)
    redis_client.script_flush()
    connections = redis_client.info("stats")["total_connections_received"]
    found = await check_rules(settings)
    assert redis_client.info("stats")["total_connections_received"] - connections <= 2
    assert len(found) == 21
    assert [each.name for each in found if each.colour is Colour.RED] == ["rules/account:A7"]
    (away,) = await check_rules(settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1")}))
    assert away.colour is Colour.RED


def test_what_a_rule_last_heard_is_read_and_garbage_beside_it_is_left_out() -> None:
    details = '{"measured": "4.0000%", "limit": "5%"}'
    stored = {"DRAWDOWN": f"{NOW - 3_000_000} 0.800000 80 on {details}", "MARGIN": "much", "waiting DRAWDOWN": "5"}
    judged = judged_of(stored, NOW)
    assert set(judged) == {Rule.DRAWDOWN}
    last = judged[Rule.DRAWDOWN]
    assert (last.age, str(last.distance), last.warned, last.mode) == (3.0, "0.200000", 80, "on")
    assert last.details["measured"] == "4.0000%"


def test_limits_are_written_as_people_write_them() -> None:
    told = {rule: limits_in_words(Limits(), rule) for rule in Rule}
    assert (told[Rule.DRAWDOWN], told[Rule.API_ERRORS], told[Rule.DATA_STALENESS]) == ("5.00%", "10", "1800 s")
    assert (told[Rule.MARGIN], told[Rule.SILENT_INPUT]) == ("off", "600 s")


def test_a_warning_says_what_was_measured_and_that_nothing_was_halted() -> None:
    fields = {"rule": "DRAWDOWN", "scope": "account:ALPHA", "percent": "80"}
    details = '{"measured": "4.1000%", "limit": "5%", "window": "from the high-water mark"}'
    note = warning_notification({**fields, "details": details}, "https://desk.example")
    assert note is not None
    assert note.title == "DRAWDOWN of account:ALPHA is past 80 % of its limit"
    assert note.body == "Measured 4.1000% from the high-water mark; it trips beyond 5%. Nothing has been halted."
    assert warning_notification(fields, None) is None, "somebody else wrote that"
