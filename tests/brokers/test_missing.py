"""What keeps an adapter from working on this host is told without importing anything for it."""

from __future__ import annotations

import sys

import pytest

from brokers.missing import missing_for
from configuration.accounts import AccountSettings

KEYS = {"key_id": "key", "secret_key": "secret"}


def ccxt(exchange: str) -> AccountSettings:
    return AccountSettings.model_validate({"adapter": "ccxt", "exchange": exchange, **KEYS})


@pytest.fixture(params=["ccxt", "ib_async"])
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One that nothing has imported in this process."""
    for name in [name for name in sys.modules if name.partition(".")[0] == request.param]:
        monkeypatch.delitem(sys.modules, name)
    return str(request.param)


ACCOUNTS = {"ccxt": ccxt("binanceusdm"), "ib_async": AccountSettings.model_validate({"adapter": "ib", "port": 4002})}


def test_nothing_is_missing_where_it_is_installed_and_nothing_is_imported(package: str) -> None:
    assert missing_for(ACCOUNTS[package]) == ""
    assert package not in sys.modules


def test_a_package_that_is_not_there_is_named_with_what_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    said = missing_for(ACCOUNTS[package])
    assert 'pip install "trading-breaker-ops[' in said and "\n" not in said


@pytest.mark.parametrize(("exchange", "says"), [("bybt", "; is it bybit?"), ("zzzzzzzz", "; it knows 1")])
def test_an_exchange_that_ccxt_does_not_know_is_told_with_the_nearest(exchange: str, says: str) -> None:
    assert missing_for(ccxt(exchange)).startswith(f"ccxt knows no exchange '{exchange}'{says}")


def test_ccxts_files_tell_the_exchanges_that_it_has() -> None:
    from ccxt import exchanges  # noqa: PLC0415  half a second, here alone

    assert [name for name in exchanges if missing_for(ccxt(name))] == []


def test_other_adapters_need_nothing_of_this() -> None:
    values = {"adapter": "alpaca", "base_url": "https://venue.example", **KEYS}
    assert missing_for(AccountSettings.model_validate(values)) == ""
