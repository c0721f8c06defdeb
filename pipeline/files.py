"""Files and folders that are there whole or not at all, whatever is killed in the middle.

All writing goes to a hidden temporary name in the same folder, is forced to disk, and takes its
real name last. What a dead process left behind is removed by `remove_leftovers`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import BadInputError, RunFailedError

TEMPORARY = ".tmp-"
DISPLACED = ".old-"
MAX_JSON_BYTES = 16 << 20


def write_atomic(path: Path, data: bytes) -> None:
    """Make `path` hold exactly `data`, replacing what it held; OSError leaves the old content."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path, to be written in the block, that becomes `path` when it ends well.

    If the block raises, what it wrote is removed and `path` is as it was.
    """
    temporary = temporary_beside(path)
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder that becomes `path` when the block ends well.

    If the block raises, the temporary folder is removed and `path` is as it was. A folder that
    was at `path` is replaced.
    """
    temporary = temporary_beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        publish_folder(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def publish_folder(temporary: Path, path: Path) -> None:
    """Force the flat folder `temporary` to disk and rename it to `path`, replacing a folder there.

    Renaming cannot replace a folder that holds files, so an old one steps aside first; should
    the process die just then, `remove_leftovers` puts it back.
    """
    for entry in temporary.iterdir():
        sync_file(entry)
    sync_folder(temporary)
    displaced = path.with_name(DISPLACED + path.name)
    if path.exists():
        path.rename(displaced)
    temporary.rename(path)
    sync_folder(path.parent)
    shutil.rmtree(displaced, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written directly in `folder`, if it exists.

    Only for the one process that writes to `folder`.
    """
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(DISPLACED):
            original = entry.with_name(entry.name.removeprefix(DISPLACED))
            if not original.exists():
                entry.rename(original)
                continue
        if entry.name.startswith((TEMPORARY, DISPLACED)):
            remove(entry)


def temporary_beside(path: Path) -> Path:
    """Return the name under which `path` is written before it is complete.

    It is another one each time: machines that share a folder may have processes of one number.
    """
    return path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}-{secrets.token_hex(3)}")


def read_object(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the JSON object in the file, whoever wrote it.

    FileNotFoundError if there is none, ValueError says what else is wrong with it.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise ValueError("is no file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(data) > max_bytes:
        raise ValueError(f"larger than {max_bytes} bytes")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON") from None
    if not isinstance(content, dict):
        raise ValueError("is no JSON object")
    return content


def check_destination(path: Path, what: str) -> None:
    """Raise BadInputError unless the file `path`, a `what`, can be written; nothing is left of it.

    Its folder has to be there.
    """
    if not path.parent.is_dir():
        raise BadInputError(f"{path}: there is no folder {path.parent}; make it, or name another")
    if path.is_dir():
        raise BadInputError(f"{path}: is a folder; expected the name of a {what}'s file")
    probe = temporary_beside(path)
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise BadInputError(
            f"{path}: a {what} cannot be written to {path.parent}: {error.strerror}; name another "
            "folder"
        ) from None


def remove(path: Path) -> None:
    """Remove the file or folder `path` if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of the file's content in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what JSON can hold, without its own key `sha256`."""
    text = json.dumps(
        {key: value for key, value in content.items() if key != "sha256"},
        sort_keys=True,
        separators=(",", ":"),
    )
    return hashlib.sha256(text.encode()).hexdigest()


def whole_lines_size(path: Path) -> int:
    """Return how many bytes of the file at `path` are whole lines; 0 if it is not there."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            while end:
                start = max(0, end - 65536)
                file.seek(start)
                tail = file.read(end - start).rfind(b"\n")
                if tail >= 0:
                    return start + tail + 1
                end = start
    except FileNotFoundError:
        pass
    return 0


def sync_file(path: Path) -> None:
    """Force the content of `path` to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force the names in `folder` to disk: a rename lasts only after this."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(what: str, advice: str) -> Iterator[None]:
    """Turn an OSError of the block (full disk, read-only folder) into one line that says so."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).strip().splitlines()[-1]
        raise RunFailedError(f"{what}: cannot be written: {reason}; {advice}") from None
