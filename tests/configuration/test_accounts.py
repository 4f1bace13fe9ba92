"""The settings of an account: each adapter says in one sentence what it misses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from configuration.accounts import AccountSettings
from configuration.settings import Settings

KEYS = {"key_id": "k", "secret_key": "s"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"key_id": "k"}, "adapter alpaca needs base_url and secret_key"),
        ({"adapter": "ccxt", **KEYS}, "adapter ccxt needs exchange"),
        ({"adapter": "ib"}, "adapter ib needs port"),
        ({"adapter": "ib", "port": 70_000}, "less than or equal to 65535"),
        ({"adapter": "ib", "port": 4001, "client_id": -1}, "greater than or equal to 0"),
        ({"adapter": "ib", "port": 4001, "ib_account": "mine"}, "should match pattern"),
        ({"adapter": "ib", "port": 4001, "host": "http://tws"}, "should match pattern"),
        ({"adapter": "ccxt", "exchange": "okx"}, "adapter ccxt needs key_id and secret_key"),
        (
            {"adapter": "ccxt", "exchange": "okx", "subaccount": "desk-2", **KEYS},
            "subaccount: okx has keys of its own for each sub-account; give those",
        ),
        ({"adapter": "ccxt", "exchange": "okx", "market": "perpetual", **KEYS}, "'spot', 'margin', 'swap' or 'future'"),
        ({"adapter": "ccxt", "exchange": "Binance USDM", **KEYS}, "should match pattern"),
    ],
)
def test_what_is_missing_is_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as told:
        AccountSettings.model_validate(settings)
    assert sentence in str(told.value)


def test_an_adapter_of_others_needs_none_of_ours() -> None:
    assert AccountSettings.model_validate({"adapter": "theirs"}).base_url is None


def test_two_accounts_of_one_tws_are_different_clients_of_it() -> None:
    one = {"adapter": "ib", "port": 4001, "ib_account": "U1"}
    with pytest.raises(ValidationError, match=r"accounts\.B\.client_id: A has 911 at 127\.0\.0\.1:4001 too"):
        Settings(accounts={"A": one, "B": {**one, "ib_account": "U2"}})
    assert len(Settings(accounts={"A": one, "B": {**one, "client_id": 912}}).accounts) == 2
