"""The scheduled verification: that breaker, ledger and feeds are what they say they are, minute by minute."""
