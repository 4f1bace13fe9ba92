"""From a configured account to its adapter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from brokers.alpaca import AlpacaBroker
from brokers.protocol import BrokerRefused
from brokers.registry import open_account, open_broker, open_brokers, open_those_that_open
from configuration.accounts import AccountSettings
from configuration.settings import ConfigurationError, Settings
from sandbox.exchange.scenario import parse
from sandbox.exchange.server import PaperExchangeThread


def account(adapter: str = "alpaca") -> AccountSettings:
    return AccountSettings(
        adapter=adapter, base_url="http://127.0.0.1:1", key_id=SecretStr("k"), secret_key=SecretStr("hidden-s")
    )


def installed(where: Path, code: str) -> None:
    """A third party's distribution with one entry point, as pip would leave it behind."""
    (where / "theirs.py").write_text(code)
    info = where / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[breaker.brokers]\ntheirs = theirs:make\n")


def test_every_account_gets_its_broker() -> None:
    brokers = open_brokers({"ALPHA": account(), "BETA": account()})
    assert [broker.name for broker in brokers.values()] == ["ALPHA", "BETA"]
    assert all(isinstance(broker, AlpacaBroker) for broker in brokers.values())
    assert "hidden-s" not in repr(brokers)


async def test_a_configured_account_finds_what_this_host_keeps_of_its_exchange(tmp_path: Path) -> None:
    account = {"adapter": "ccxt", "exchange": "binance", "market": "spot", "key_id": "key", "secret_key": "secret"}
    with PaperExchangeThread(parse('protocol = "binance-spot"\n')) as exchange:
        settings = Settings.model_validate(
            {"state_dir": tmp_path, "accounts": {"SPOT": {**account, "urls": exchange.url}}}
        )
        broker = open_account(settings, "SPOT")
        try:
            await broker.positions()
        finally:
            await broker.aclose()
    assert [*settings.markets_dir.iterdir()]


def test_an_adapter_that_is_not_installed_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match=r"accounts\.ALPHA\.adapter: no adapter 'nasdaq'.*known are alpaca"):
        open_broker("ALPHA", account("nasdaq"))


def test_a_third_partys_adapter_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "from brokers.alpaca import from_settings as make\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    assert open_broker("ALPHA", account("theirs")).name == "ALPHA"


def test_something_that_is_no_broker_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "def make(name, account):\n    return object()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    with pytest.raises(
        ConfigurationError, match=r"does not provide a broker; it lacks account, .*cancel_all, .*positions"
    ):
        open_broker("ALPHA", account("theirs"))


def test_a_third_partys_adapter_that_breaks_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    with pytest.raises(
        ConfigurationError, match=r"accounts\.ALPHA\.adapter: 'theirs' can't be opened \(ModuleNotFound"
    ):
        open_broker("ALPHA", account("theirs"))


async def test_an_account_that_cannot_be_opened_stops_none_of_the_others_and_says_why() -> None:
    brokers = open_those_that_open({"ALPHA": account(), "BETA": account("nasdaq")})
    assert isinstance(brokers["ALPHA"], AlpacaBroker)
    with pytest.raises(BrokerRefused, match=r"accounts\.BETA\.adapter: no adapter 'nasdaq'.*nothing was cancelled"):
        await brokers["BETA"].cancel_all()


def test_without_any_that_opens_that_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="no adapter 'nasdaq'"):
        open_those_that_open({"ALPHA": account("nasdaq")})
