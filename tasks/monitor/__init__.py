"""Measure accounts and feeds for the automatic trips, by one process at a time."""
