"""Locks of files between processes, that end with the process, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# A listing of the runs holds each one's lock for a moment.
LOCK_ATTEMPTS = 10
LOCK_AGAIN_AFTER_S = 0.02


class HeldError(Exception):
    """Another process holds the lock; the message says which."""


@contextmanager
def locked_file(path: Path, is_kept: bool = True) -> Iterator[None]:
    """Hold the lock of the file `path`, which is made if it is not there, while the block runs.

    Args:
        path: The file.
        is_kept: Whether it is left there in the end.

    Raises:
        HeldError: Another process keeps it.
        OSError: The file cannot be made.
    """
    with _taken(path) as file:
        file.truncate(0)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name too
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            if not is_kept:
                path.unlink(missing_ok=True)


def _taken(path: Path) -> IO[str]:
    holder = ""
    for _ in range(LOCK_ATTEMPTS):
        file = path.open("a+")
        if _lock(file) and _is_at(file, path):
            return file
        with file:
            file.seek(0)
            holder = file.read(200).strip()
        time.sleep(LOCK_AGAIN_AFTER_S)
    raise HeldError(holder or "another process")


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    """Tell whether `path` is still that file: its folder may have made room for another one."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
