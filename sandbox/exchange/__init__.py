"""Serve the paper exchange: it speaks Alpaca's, Binance's and the TWS API, and gets into trouble on request.

It serves the demo, drills and tests. A scenario (TOML) sets the venue, the book and what goes wrong; `/_paper/report`
tells what the venue saw, so a kill switch is judged by the venue and not by its own bookkeeping.
"""
