"""An account whose readings are written down beforehand, and a clock that moves only where somebody waits on it.

For decisions that depend on the order and the moment of readings, which no venue gives twice alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from brokers.alpaca import AlpacaBroker
from brokers.coverage import Coverage, coverage_of
from brokers.protocol import BrokerError, BrokerUnavailable, CancelResult, CloseOrder, CloseResult, Listed
from breaker.orders import MarketClock, Order, Position, Unreadable
from configuration.settings import KillSettings
from tasks.kill import account, book, cancel, flatten, verify
from tasks.kill.account import AccountProgress, AccountRun, RunClock
