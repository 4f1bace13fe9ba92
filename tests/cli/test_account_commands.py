"""`breaker accounts`: what is configured is listed, and an account is tried without placing an order."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from breaker.instruments import AssetClass
from brokers.instrument_store import InstrumentStore
from cli.doctor_command import answers
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread
from tasks.checks.measurement import Colour
from tests.cli.conftest import Outcome, RunCli, WriteConfiguration
from tests.cli.test_kill_command import account

BOOK = (
    '[prices]\nAAPL = 200\n"BTC/USD" = 95000\n'
    '[[positions]]\nsymbol = "AAPL"\nqty = 100\n[[positions]]\nsymbol = "BTCUSD"\nqty = 1\n'
    '[[orders]]\nsymbol = "AAPL"\nside = "buy"\nqty = 5\nlimit_price = 1\n'
)


@pytest.fixture
def venue(write_configuration: WriteConfiguration, tmp_path: Path) -> Iterator[PaperExchangeThread]:
    """One account of a sandbox exchange; nothing else answers."""
    with PaperExchangeThread(parse(BOOK)) as exchange:
        configure(write_configuration, tmp_path, account(exchange.url))
        yield exchange


def configure(write: WriteConfiguration, home: Path, accounts: str) -> None:
    write(f'redis_url = "redis://127.0.0.1:1/0"\nstate_dir = "{home / "state"}"\n{accounts}')


def checks(done: Outcome) -> dict[str, dict[str, Any]]:
    found = json.loads(done.stdout)["checks"]
    return {check["name"].removeprefix("venue/ALPHA/"): check for check in found}


def test_an_account_whose_keys_may_do_all_is_green_and_nothing_is_placed(
    venue: PaperExchangeThread, breaker_cli: RunCli, tmp_path: Path
) -> None:
    done = breaker_cli("accounts", "test", "alpha", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = checks(done)
    assert {check["colour"] for check in found.values()} == {"green"}, found
    assert {name: found[name]["value"] for name in ("orders", "positions", "keys", "look-up")} == {
        "orders": "1 open orders",
        "positions": "2 positions",
        "keys": "the venue tells of nothing that they may not",
        "look-up": "answered",
    }
    assert {"fills", "transfers", "instruments"} <= {*found}
    assert not any(route.startswith("POST") for route in venue.report()["requests"])
    assert venue.report()["open_orders"] == 1
    kept = InstrumentStore(tmp_path / "state" / "instruments", "ALPHA").read()
    assert kept["BTCUSD"].asset_class is AssetClass.CRYPTO and kept["BTCUSD"].price_increment


def test_keys_that_may_only_read_are_red_and_the_rest_is_told(venue: PaperExchangeThread, breaker_cli: RunCli) -> None:
    venue.control("trouble", {"kind": "403", "routes": ["DELETE *"]})
    done = breaker_cli("accounts", "test", "ALPHA")
    assert done.returncode == 1
    said = " ".join((done.stdout + done.stderr).split())
    assert "■ red keys may not all" in said and "keys that may trade" in said and "1 open orders" in said
    assert "Traceback" not in said


def test_what_can_not_be_read_is_red_and_what_closing_does_without_is_not(
    venue: PaperExchangeThread, breaker_cli: RunCli
) -> None:
    unreadable = '[[orders]]\nsymbol = "AAPL"\nside = "buy"\nqty = 5\nlimit_price = 1\nunreadable = true\n'
    venue.restart(parse(BOOK + unreadable))
    venue.control("trouble", {"kind": "403", "routes": ["GET /v2/account/activities*"]})
    done = breaker_cli("accounts", "test", "ALPHA", "--json")
    found = checks(done)
    assert done.returncode == 1
    assert found["orders"]["colour"] == "red" and "can't be read" in found["orders"]["problem"]
    assert found["fills"]["colour"] == found["transfers"]["colour"] == "yellow"
    assert found["fills"]["problem"].endswith("Closing does without it.")


def test_a_venue_that_is_away_and_wrong_keys_are_one_line_each(
    breaker_cli: RunCli, write_configuration: WriteConfiguration, tmp_path: Path
) -> None:
    configure(write_configuration, tmp_path, account("http://127.0.0.1:1") + "request_timeout = 0.3\n")
    away = breaker_cli("accounts", "test", "ALPHA", "--json")
    assert away.returncode == 1 and "127.0.0.1" in checks(away)["orders"]["problem"]
    with PaperExchangeThread(parse(BOOK)) as exchange:
        configure(write_configuration, tmp_path, account(exchange.url, secret="s3cr3t-and-wrong"))
        wrong = breaker_cli("accounts", "test", "ALPHA", "--json")
    assert wrong.returncode == 1 and "refuses the keys (401)" in checks(wrong)["orders"]["problem"]
    assert "s3cr3t-and-wrong" not in wrong.stdout + wrong.stderr


def test_what_every_question_is_answered_with_is_said_once(
    breaker_cli: RunCli, write_configuration: WriteConfiguration, tmp_path: Path
) -> None:
    with PaperExchangeThread(parse(BOOK)) as exchange:
        configure(write_configuration, tmp_path, account(exchange.url, secret="wrong"))
        done = breaker_cli("accounts", "test", "ALPHA")
    assert done.returncode == 1
    assert done.stdout.count("refuses the keys (401)") == 1
    assert done.stdout.count("as above") == 2, "the one row that is needed to close, and the one that is not"
    said = " ".join(done.stdout.split())
    assert "orders, positions, keys, as above look-up" in said and "fills, transfers, as above instruments" in said


def test_an_exchange_that_is_misspelt_is_one_line(
    breaker_cli: RunCli, write_configuration: WriteConfiguration, tmp_path: Path
) -> None:
    keys = 'key_id = "key"\nsecret_key = "secret"\n'
    configure(write_configuration, tmp_path, f'[accounts.PERPS]\nadapter = "ccxt"\nexchange = "bybt"\n{keys}')
    done = breaker_cli("accounts", "test", "PERPS")
    assert done.returncode == 1 and done.stdout.splitlines() == [
        "PERPS  ccxt at bybt (swap)",
        "■ red  reached  accounts.PERPS: ccxt knows no exchange 'bybt'; is it bybit?",
        "1 red, 0 yellow, 0 green",
    ]


def test_what_an_account_does_not_cover_is_said_in_one_line(
    breaker_cli: RunCli, write_configuration: WriteConfiguration, tmp_path: Path
) -> None:
    where = 'adapter = "ccxt"\nexchange = "bybit"\nurls = "http://127.0.0.1:1"\nrequest_timeout = 0.2\n'
    keys = 'key_id = "key"\nsecret_key = "secret"\nleave_out = ["option"]\n'
    configure(write_configuration, tmp_path, f"[accounts.ALPHA]\n{where}{keys}")
    shown = breaker_cli("accounts", "test", "ALPHA").stdout.splitlines()
    assert any(line.startswith("Neither read nor closed through ALPHA: option; spot balances") for line in shown)


def test_what_doctor_and_accounts_answer_is_read_at_80_columns_without_a_word_cut() -> None:
    problem = (
        "After a kill switch the venue could refuse whatever still sends orders to ALPHA, BETA and GAMMA, until the "
        "reset: recommended, kill.venue_lock = true."
    )
    screen = Console(width=80, file=io.StringIO())
    screen.print(answers([(Colour.YELLOW, "orders, positions, keys, look-up", "off", problem)]))
    assert isinstance(screen.file, io.StringIO)
    lines = screen.file.getvalue().splitlines()
    assert len(lines) <= 6 and max(map(len, lines)) <= 80
    at = lines[0].index("off")
    assert " ".join(line[at:].strip() for line in lines).strip() == f"off {problem}"


def test_an_account_that_is_not_configured_is_named_with_those_that_are(
    venue: PaperExchangeThread, breaker_cli: RunCli
) -> None:
    done = breaker_cli("accounts", "test", "OMEGA")
    assert done.returncode == 2
    assert done.stderr.strip() == "breaker: No account OMEGA is configured (there are: ALPHA); nothing was asked."


def test_accounts_are_listed_with_what_their_venues_can_do_and_none_is_asked(
    venue: PaperExchangeThread, breaker_cli: RunCli, write_configuration: WriteConfiguration, tmp_path: Path
) -> None:
    accounts = account(venue.url) + account(venue.url).replace("ALPHA", "BETA") + 'adapter = "nasdaq"\n'
    configure(write_configuration, tmp_path, accounts)
    listed = breaker_cli("accounts", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    alpha, beta = json.loads(listed.stdout)
    assert (alpha["account"], alpha["adapter"], alpha["monitored_as"]) == ("ALPHA", "alpaca", "account:ALPHA")
    assert "cancel all at once" in alpha["can"] and "dead-man timer" in alpha["cannot"]
    assert "no adapter 'nasdaq' is installed" in beta["problem"] and not alpha["problem"]
    shown = breaker_cli("accounts", "list")
    assert "ALPHA" in shown.stdout and "BETA" in shown.stdout
    assert venue.report()["requests"] == {}


def test_what_cannot_work_as_it_is_configured_is_listed_and_told_by_config(
    breaker_cli: RunCli, write_configuration: WriteConfiguration, tmp_path: Path
) -> None:
    keys = 'key_id = "key"\nsecret_key = "secret"\n'
    accounts = (
        f'[accounts.ALPHA]\nbase_url = "http://127.0.0.1:1"\nsafety_net = 60\n{keys}'
        f'[accounts.PERPS]\nadapter = "ccxt"\nexchange = "bybt"\n{keys}'
    )
    configure(write_configuration, tmp_path, accounts)
    rows = {row["account"]: row for row in json.loads(breaker_cli("accounts", "list", "--json").stdout)}
    assert rows["ALPHA"]["problem"].startswith("safety_net = 60: Alpaca has no timer of its own")
    assert rows["PERPS"]["problem"].startswith("ccxt knows no exchange 'bybt'; is it bybit?")
    assert not rows["PERPS"]["can"]
    shown = breaker_cli("config").stderr
    assert "accounts.ALPHA.safety_net: Alpaca has no timer of its own" in shown
    assert "accounts.PERPS: ccxt knows no exchange 'bybt'" in shown
    tried = breaker_cli("accounts", "test", "ALPHA", "--json")
    (net,) = [check for check in json.loads(tried.stdout)["checks"] if check["name"] == "safety-net/ALPHA"]
    assert net["colour"] == "red" and "See accounts.ALPHA: safety_net." in net["problem"]


def test_without_an_account_it_says_what_to_write(
    breaker_cli: RunCli, write_configuration: WriteConfiguration, tmp_path: Path
) -> None:
    configure(write_configuration, tmp_path, "")
    assert "[accounts.NAME]" in breaker_cli("accounts", "list").stdout
