"""Why MLflow did not do what it was asked, in plain words.

Its client reports one refused connection as four errors in one another, each quoting the last.
"""

from __future__ import annotations

import contextlib
import re
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from http import HTTPStatus

from pipeline.redaction import redact

HTTP_STATUS = re.compile(r"failed with error code (\d{3})|too many (\d{3}) error responses")
MAX_CHARACTERS = 200


def plain_reason(error: BaseException) -> str:
    """Return what is behind `error` in one line without passwords."""
    for behind in reversed(list(_chain(error))):
        if said := _known(behind):
            return said
    text = ""
    with contextlib.suppress(Exception):  # an error may be unable to say what it is
        text = redact(str(error)).strip()
    if match := HTTP_STATUS.search(text):
        return f"the server answers {_status(int(match[1] or match[2]))}"
    line = (text.splitlines() or [type(error).__name__])[0]
    return line if len(line) <= MAX_CHARACTERS else f"{line[:MAX_CHARACTERS]}…"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error`, what it was raised from or during, and so on."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _known(error: BaseException) -> str:
    """Return the plain words for what the system, its network or a database says."""
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        what = (error.reason or str(error)).replace("_", " ").lower()
        return f"no secure connection: {what}"
    if isinstance(error, sqlite3.Error):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror[0].lower()}{error.strerror[1:]}"
    return ""


def _status(code: int) -> str:
    with contextlib.suppress(ValueError):
        return f"{code} ({HTTPStatus(code).phrase})"
    return str(code)
