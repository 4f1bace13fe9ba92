"""Guard engines in any language: an HTTP proxy in front of Alpaca's API that asks the gate about each order."""
