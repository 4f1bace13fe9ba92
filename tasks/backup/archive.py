"""Write an archive (tar.gz) and unpack it again, every member by its hash.

Whatever an archive says of itself, unpacking writes only into the directory that it is given, only what the manifest
lists, and nothing but regular files.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO

from breaker.atomic_file import atomic_file
from tasks.backup.manifest import BackupUnusable, Manifest, Member

MANIFEST = "manifest.json"
_LONGEST_MANIFEST = 64 * 2**20
_PIECE = 2**20


class _Hashed:
    """A file that is only written to, and hashed meanwhile."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._file.write(data)


def write_archive(path: Path, manifest: Manifest, folder: Path) -> tuple[Manifest, str]:
    """Pack every file beneath `folder` behind the manifest; `path` appears when it is complete, for its owner alone.

    Returns the manifest with its members, and the archive's own SHA-256. Raises OSError.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    members = tuple(Member(str(file.relative_to(folder)), file.stat().st_size, _sha256(file)) for file in files)
    complete = replace(manifest, members=members)
    with atomic_file(path, mode=0o600) as target:
        hashed = _Hashed(target)
        with tarfile.open(fileobj=hashed, mode="w|gz") as archive:  # type: ignore[call-overload]  # only written to
            text = complete.to_json().encode()
            archive.addfile(_header(MANIFEST, len(text)), BytesIO(text))
            for member, file in zip(members, files, strict=True):
                with file.open("rb") as content:
                    archive.addfile(_header(member.name, member.size), content)
    return complete, hashed.sha256.hexdigest()


def unpack_archive(path: Path, folder: Path) -> Manifest:
    """Write every member into `folder`, which is empty, and see that each is what the manifest says.

    Raises:
        BackupUnusable: it is no archive of ours, or not as it was written.
    """
    try:
        with gzip.open(path) as packed:
            with tarfile.open(fileobj=packed, mode="r|") as archive:
                entries = iter(archive)
                manifest = _read_manifest(archive, next(entries, None))
                _unpack_members(archive, entries, {member.name: member for member in manifest.members}, folder)
            while packed.read(_PIECE):
                pass  # up to the checksum at its end
    except BackupUnusable as error:
        raise BackupUnusable(f"{path} can't be used: {error}") from None
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BackupUnusable(
            f"{path} is no backup, or is damaged or cut short ({error}); nothing was changed: take another copy of it"
        ) from None
    except OSError as error:
        raise BackupUnusable(f"{path} can't be read ({error.strerror or error}); nothing was changed") from None
    return manifest


def archive_sha256(path: Path) -> str:
    """Of the archive as a whole, as the ledger has it. Raises OSError."""
    return _sha256(path)


def _read_manifest(archive: tarfile.TarFile, entry: tarfile.TarInfo | None) -> Manifest:
    if entry is None or entry.name != MANIFEST or not entry.isreg() or entry.size > _LONGEST_MANIFEST:
        raise BackupUnusable("it doesn't begin with a manifest; nothing was changed")
    content = archive.extractfile(entry)
    text = b"" if content is None else content.read()
    return Manifest.from_json(text.decode("utf-8", "replace"))


def _unpack_members(
    archive: tarfile.TarFile, entries: Iterator[tarfile.TarInfo], expected: dict[str, Member], folder: Path
) -> None:
    for entry in entries:
        member = expected.pop(entry.name, None)
        if member is None or not entry.isreg() or not _is_safe(entry.name):
            raise BackupUnusable(f"{entry.name!r:.80} is in it, and not in its manifest; nothing was changed")
        content = archive.extractfile(entry)
        target = folder / entry.name
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with target.open("xb") as file:
            while content is not None and (piece := content.read(_PIECE)):
                digest.update(piece)
                file.write(piece)
        if entry.size != member.size or digest.hexdigest() != member.sha256:
            raise BackupUnusable(
                f"{entry.name} is not what the manifest says: it was changed; nothing was changed here"
            )
    if expected:
        raise BackupUnusable(f"{min(expected)} is in its manifest, and missing; nothing was changed")


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and str(path) == name


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = size, 0o600, int(time.time())
    return header


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
