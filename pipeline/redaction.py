"""Addresses without the passwords in them, for whatever is shown, kept or sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# What stands before the last @ is a user's name and password, or a token. They may hold characters
# that belong after a host; but what follows host:port is no password, nor is a query or fragment.
USER = re.compile(r"://(?:[^\s?#]*|[^\s/?#:@]*:(?!\d+(?:[/?#]|$))\S*)@")
NAMED = re.compile(
    r"((?:password|passwd|token|secret|(?:api|access|secret|account)_?key|signature|[?&]sig)=)[^&\s]+",
    re.I,
)

# A fragment is for whoever has the address, no part of what a server is asked: a place for tokens.
# One that begins with a slash is a page of MLflow or Ray; in the path of a file # is a character.
FRAGMENT = re.compile(r"(?<!sqlite)(?<!file)(://[^\s#]*#)(?!/)\S+?(?=['\"]?[.,:;)]*(?:\s|$))")


def redact(text: str) -> str:
    """Return `text` without the user names, passwords and fragments of the addresses in it."""
    return NAMED.sub(r"\1***", FRAGMENT.sub(r"\1***", USER.sub("://***@", text)))


def holds_password(address: str) -> bool:
    """Tell whether there is, or could be, a user's name, a password or a token in an address."""
    return "@" in address or redact(address) != address


def redact_addresses(value: Any) -> str:
    """Return `value` as text, without passwords if it is or holds an address."""
    text = str(value)
    return redact(text) if "://" in text else text


def redact_texts(value: Any) -> Any:
    """Return `value`, which JSON can hold, with the texts in it as of `redact_addresses`."""
    if isinstance(value, str):
        return redact_addresses(value)
    if isinstance(value, Mapping):
        return {key: redact_texts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_texts(item) for item in value]
    return value
