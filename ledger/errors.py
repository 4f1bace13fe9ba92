"""Name what can go wrong with the ledger. Each message says what happened, what state things are in and what to do."""

from __future__ import annotations


class LedgerError(Exception):
    """Base of everything the ledger raises on purpose."""


class LedgerUnavailable(LedgerError):
    """The database can't be reached, didn't answer in time or gave up; nothing is known to have been written."""


class LedgerNotReady(LedgerError):
    """The database answers but has no audit log of the expected form: it has to be migrated first."""


class LedgerNotEmpty(LedgerError):
    """A ledger that was to be filled has rows already."""


class InvalidRecord(LedgerError, ValueError):
    """A record that the ledger can't keep, refused before anything was written."""


class SpoolUnavailable(LedgerError):
    """The spool can't be written or read: a full or read-only disk, or another owner."""


class NotRecorded(LedgerError):
    """Neither the database nor the spool took the record; the message carries what should be noted by hand."""


class ExportUnreadable(LedgerError):
    """A file that is not a complete export of the audit log."""
