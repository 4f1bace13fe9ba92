"""Speak Binance's spot and USDⓈ-M futures REST APIs on the sandbox's one book."""
