"""Check that an adapter keeps what the kill switch relies on, whatever trouble its venue is in.

    pytest --pyargs brokers.contract --adapter mypackage:make

`make` takes nothing and returns a `brokers.contract.venue.VenueUnderTest`: a venue that the suite may fill and bring
into trouble, and that opens the adapter's broker. How to write one: docs/how-to/write-an-adapter.md.
"""
