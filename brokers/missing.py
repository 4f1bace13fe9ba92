"""Say what keeps an account's adapter from working on this host, before its venue is asked and nothing imported for it.

Importing the libraries that adapters go by takes up to a second each: whether they are there, and which exchanges ccxt
knows, is seen from their files.
"""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from configuration.accounts import AccountSettings


def missing_for(account: AccountSettings) -> str:
    """In words: the package that is not installed, or the exchange that ccxt does not know; empty where nothing is."""
    if account.adapter == "ccxt":
        from brokers.ccxt.connection import MISSING, unknown_exchange  # noqa: PLC0415  only for whom it concerns

        spec = _spec("ccxt")
        if spec is None or spec.origin is None:
            return MISSING
        known = sorted(file.stem for file in (Path(spec.origin).parent / "async_support").glob("[!_]*.py"))
        return "" if account.exchange in known else unknown_exchange(account.exchange or "", known)
    if account.adapter == "ib" and _spec("ib_async") is None:
        from brokers.ib.connection import EXTRA  # noqa: PLC0415

        return EXTRA
    return ""


def _spec(package: str) -> ModuleSpec | None:
    try:
        return find_spec(package)
    except ValueError:  # it was hidden: Python's own way to say that there is none
        return None
