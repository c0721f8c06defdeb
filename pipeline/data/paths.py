"""Where data sets and their decoded copies lie."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def data_root() -> Path:
    """Return the folder of downloaded data sets: OUTERLOOP_DATA, or in the user's cache."""
    given = os.environ.get("OUTERLOOP_DATA")
    return _absolute(given) if given else user_cache_path("outerloop") / "data"


def cache_root() -> Path:
    """Return the folder of decoded data sets: OUTERLOOP_CACHE, or in the user's cache."""
    given = os.environ.get("OUTERLOOP_CACHE")
    return _absolute(given) if given else user_cache_path("outerloop") / "decoded"


def _absolute(given: str) -> Path:
    return Path(given).expanduser().absolute()
