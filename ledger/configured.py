"""Open the ledger, its spool and its checkpoints as the configuration names them."""

from __future__ import annotations

from configuration.settings import Settings
from ledger.checkpoint import Checkpoints
from ledger.errors import LedgerError, LedgerNotReady
from ledger.ledger import Ledger
from ledger.location import database_url, state_file
from ledger.recorder import Recorder
from ledger.spool import Spool
from ledger.spool_copy import spool_of


def open_ledger(settings: Settings, *, timeout: float = 2.0) -> Ledger:
    """The configured ledger; nothing is sent before its first use."""
    return Ledger.connect(database_url(settings), key=settings.ledger_key, timeout=timeout)


def open_ready_ledger(settings: Settings, *, timeout: float = 2.0) -> Ledger:
    """The configured ledger; where it is the SQLite file of the state directory, that is made when it is missing.

    So is one that a process began and didn't live to finish: the file is there then, but nothing is in it.

    Raises:
        LedgerUnavailable: the file can't be made. A configured database is not asked, nor migrated, here.
    """
    ledger = open_ledger(settings, timeout=timeout)
    if settings.database_url is None and not (state_file(settings, "audit.db").exists() and _is_made(ledger)):
        from ledger.schema import upgrade  # noqa: PLC0415  Alembic is slow to import, and seldom needed

        upgrade(ledger)
    return ledger


def _is_made(ledger: Ledger) -> bool:
    try:
        ledger.head()
    except LedgerNotReady:
        return False
    except LedgerError:
        return True  # whatever it is, making it wouldn't mend it, and who uses it is told
    return True


def open_spool(settings: Settings) -> Spool:
    return spool_of(settings)


def open_checkpoints(settings: Settings) -> Checkpoints:
    return Checkpoints(state_file(settings, "checkpoints.jsonl"))


def open_recorder(settings: Settings) -> Recorder:
    """What records an action wherever it can: in the database, or failing that in the spool."""
    return Recorder(open_ledger(settings, timeout=1.0), open_spool(settings))
