"""Bring the ledger's database to this version's form: `python -m ledger upgrade [--url URL]`."""

from __future__ import annotations

import argparse
import sys

from breaker.errors import BreakerError
from configuration.settings import load_settings
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.location import database_url
from ledger.schema import upgrade


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ledger", description="Look after the audit log's database.")
    parser.add_argument("command", choices=["upgrade"])
    parser.add_argument("--url", help="the database; otherwise the configured one")
    arguments = parser.parse_args()
    try:
        ledger = Ledger.connect(arguments.url or database_url(load_settings()))
        upgrade(ledger)
    except (LedgerError, BreakerError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{ledger} is up to date\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
