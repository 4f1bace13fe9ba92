"""Verify by schedule that breaker, ledger and feeds are what they say they are."""
