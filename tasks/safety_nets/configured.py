"""Say for each account whether its venue's timer is wanted, and what stands against it."""

from __future__ import annotations

from dataclasses import dataclass

from brokers.protocol import Broker
from brokers.safety_nets import VenueTimer, timer_of
from configuration.accounts import AccountSettings
from tasks.safety_nets.decision import Terms


@dataclass(frozen=True, slots=True)
class WantedNet:
    """What the configuration asks of one account's venue. `unfit` is why it can't be had, empty where it can."""

    account: str
    timeout: float
    timer: VenueTimer | None
    unfit: str = ""

    @property
    def terms(self) -> Terms:
        if self.timer is None:
            return Terms(self.timeout)
        return Terms(self.timeout, self.timer.off_after_firing, self.timer.per_symbol)


def timer_of_account(account: AccountSettings) -> VenueTimer | None:
    """What is known of the timer of its venue."""
    return timer_of(account.adapter, account.exchange or "", account.market)


def wanted_net(name: str, account: AccountSettings, broker: Broker) -> WantedNet | None:
    """What is asked of the account's venue; None where nothing is."""
    if account.safety_net is None:
        return None
    timer = timer_of_account(account)
    unfit = "" if timer is None else timer.unfit(account.safety_net, may_cancel_stops=account.safety_net_cancels_stops)
    if not unfit and not broker.capabilities.safety_net:
        unfit = f"the adapter {account.adapter} offers no timer of its venue"
    return WantedNet(name, account.safety_net, timer, unfit)
