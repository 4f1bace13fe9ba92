"""Carry out what people ask for in the console: trip, reset, kill switch, recovery."""
