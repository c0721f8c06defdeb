"""Reading zip archives from outside: everything is checked before anything is unpacked."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pipeline.errors import BadInputError

MAX_ARCHIVE_BYTES = 64 << 20
MAX_ENTRIES = 100_000
MAX_UNPACKED_BYTES = 256 << 20
IGNORED = {"__MACOSX", ".DS_Store"}  # what macOS leaves in archives


@contextmanager
def open_archive(path: Path, max_entry_bytes: int) -> Iterator[dict[str, Callable[[], bytes]]]:
    """Open the zip archive `path` and yield, for each file in it, what reads that file.

    Nothing is written to disk. Raises BadInputError, in one line, for what is no archive, is
    truncated, is larger than the bounds (in all, in number, or in one entry), or has an entry
    with an absolute path, a path that leaves the archive, a link, or a name twice.
    """
    try:
        size = path.stat().st_size
        if size > MAX_ARCHIVE_BYTES:
            raise BadInputError(
                f"{path}: {size} bytes; expected an archive of at most {MAX_ARCHIVE_BYTES}"
            )
        with zipfile.ZipFile(path) as archive:
            entries = _checked(path, archive.infolist(), max_entry_bytes)
            yield {e.filename: _reader(path, archive, e) for e in entries}
    except BadInputError:
        raise
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise BadInputError(f"{path}: is no whole zip archive ({error})") from None
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _checked(
    path: Path, entries: list[zipfile.ZipInfo], max_entry_bytes: int
) -> list[zipfile.ZipInfo]:
    """Return the entries that are files; BadInputError if any entry is not to be trusted."""
    if len(entries) > MAX_ENTRIES:
        raise BadInputError(f"{path}: {len(entries)} entries; expected at most {MAX_ENTRIES}")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > MAX_UNPACKED_BYTES:
        raise BadInputError(
            f"{path}: unpacks to {unpacked} bytes; expected at most {MAX_UNPACKED_BYTES}"
        )
    seen: set[str] = set()
    for entry in entries:
        problem = _problem(entry, max_entry_bytes)
        if entry.filename in seen:
            problem = "comes twice"
        if problem:
            raise BadInputError(f"{path}: entry {entry.filename!r:.120} {problem}")
        seen.add(entry.filename)
    return [e for e in entries if not e.is_dir() and not IGNORED & set(e.filename.split("/"))]


def _problem(entry: zipfile.ZipInfo, max_entry_bytes: int) -> str:
    if not entry.filename:
        return "has no name"
    name = PurePosixPath(entry.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in entry.filename or ":" in entry.filename:
        return "would leave the archive's folder"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a link"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in an unknown way"
    if entry.file_size > max_entry_bytes:
        return f"unpacks to {entry.file_size} bytes; expected at most {max_entry_bytes}"
    return ""


def _reader(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return archive.read(entry)  # never more than the size that was checked
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
            raise BadInputError(
                f"{path}: entry {entry.filename!r:.120} is damaged ({error})"
            ) from None

    return read
