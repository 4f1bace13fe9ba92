"""Measure one thing each, for recovery, verification and doctor alike."""
