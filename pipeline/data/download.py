"""Downloading and copying single files: resumable, and never half a file under the final name."""

from __future__ import annotations

import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pipeline.errors import BadInputError, RunFailedError
from pipeline.files import sync_folder

Progress = Callable[[str, int, int], None]  # file name, bytes so far, bytes in all (0: unknown)

CHUNK_BYTES = 1 << 16
TIMEOUT_S = 30.0
NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ssl.SSLError,
    ConnectionError,
    TimeoutError,
)


def download(url: str, part: Path, max_bytes: int, progress: Progress) -> None:
    """Download `url` to the file `part`, going on from what is there already.

    A connection that breaks is taken up again as long as each attempt brings something. What
    arrived stays in `part` for the next call. Raises RunFailedError when nothing more comes,
    BadInputError for an answer that is none (404, or more than `max_bytes`).
    """
    if not url.startswith(("https://", "http://")):
        raise BadInputError(f"{url}: expected an address that starts with https:// or http://")
    while True:
        before = _size(part)
        try:
            if _attempt(url, part, max_bytes, progress):
                return
            reason = "the connection broke"
        except NETWORK_ERRORS as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        if _size(part) <= before:
            raise RunFailedError(
                f"{url}: download stopped at {before} bytes ({reason}); run the command again to "
                "go on from there, or get the file elsewhere and use --from DIR"
            )


def copy(source: Path, part: Path, progress: Progress) -> None:
    """Copy `source` to the file `part`; BadInputError if it cannot be read."""
    try:
        file = source.open("rb")
    except FileNotFoundError:
        raise BadInputError(f"{source}: not found; --from needs a folder that has it") from None
    except OSError as error:
        raise BadInputError(f"{source}: cannot be read: {error.strerror}") from None
    with file, part.open("wb") as out:
        while chunk := _read(file, source):
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    progress(source.name, _size(part), _size(part))


def _read(file: IO[bytes], source: Path) -> bytes:
    try:
        return file.read(CHUNK_BYTES)
    except OSError as error:
        raise BadInputError(f"{source}: cannot be read: {error.strerror}") from None


def publish(part: Path, path: Path) -> None:
    """Give the finished file `part` its final name."""
    os.replace(part, path)
    sync_folder(path.parent)


def _attempt(url: str, part: Path, max_bytes: int, progress: Progress) -> bool:
    """Fetch once, from where `part` ends; return whether the file is complete now."""
    start = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            return _refused(url, part, error)
    with answer:
        if answer.status != 206 or not _starts_at(answer, start):
            start = 0  # the server sends the whole file
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else 0
        done = _receive(url, answer, part, start, total, max_bytes, progress)
    return done == total if total else True


def _receive(
    url: str,
    answer: http.client.HTTPResponse,
    part: Path,
    start: int,
    total: int,
    max_bytes: int,
    progress: Progress,
) -> int:
    done = start
    with part.open("r+b" if start else "wb") as out:
        out.seek(start)
        while chunk := answer.read1(CHUNK_BYTES):
            done += len(chunk)
            if max(done, total) > max_bytes:
                raise BadInputError(f"{url}: more than {max_bytes} bytes; not the expected file")
            out.write(chunk)
            progress(part.stem, done, total)
        out.flush()
        os.fsync(out.fileno())
    return done


def _refused(url: str, part: Path, error: urllib.error.HTTPError) -> bool:
    """Deal with an HTTP error; return whether `part` is the whole file already."""
    if error.code == 416:  # nothing after where `part` ends
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if total == str(_size(part)):
            return True
        part.unlink()
        raise RunFailedError(f"{url}: the partial download did not fit and was dropped; run again")
    raise BadInputError(f"{url}: the server answers {error.code} ({error.reason})")


def _starts_at(answer: http.client.HTTPResponse, start: int) -> bool:
    return (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
