"""Speak Alpaca's Trading API v2."""
