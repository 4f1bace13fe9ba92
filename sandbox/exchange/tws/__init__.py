"""Speak the TWS API on the exchange's one book, as Trader Workstation and IB Gateway do on their socket."""
