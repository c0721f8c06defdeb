"""A temporary folder for what is kept in the user's home, where that cannot be written.

Nothing else is imported here: matplotlib looks for its folder as soon as it is imported.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

from platformdirs import user_cache_path


def replace_unwritable_caches() -> str:
    """Let what is kept in the user's home go to a temporary folder where home cannot be written.

    A container's user often has a home that cannot be written. The choice is made in this
    process's environment, so that the processes it starts make the same one. What the
    environment names already is left as it is.

    Returns:
        A line that says so if decoded data sets are concerned, else nothing.
    """
    reason = why_unwritable(user_cache_path("outerloop"))
    if not reason:
        return ""
    folder = _temporary_folder()
    # Without it matplotlib warns of the home in every process, and makes a folder in each.
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    # A Ray that is started here would write a token to the home, and fails if it cannot.
    names_token = os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
    if not names_token and not Path("~/.ray/auth_token").expanduser().exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if os.environ.get("OUTERLOOP_CACHE"):
        return ""
    os.environ["OUTERLOOP_CACHE"] = str(folder / "decoded")
    return (
        f"{user_cache_path('outerloop')}: cannot be written: {reason}; decoded data sets go to "
        f"{os.environ['OUTERLOOP_CACHE']} this time; set OUTERLOOP_CACHE to a folder that lasts"
    )


def why_unwritable(folder: Path) -> str:
    """Return why no file can be made in `folder`, which is made itself; nothing if one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _temporary_folder() -> Path:
    """Return a folder for temporary files of this user alone, the same one every time if it can."""
    folder = Path(tempfile.gettempdir()) / f"outerloop-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        # Anybody may have made one of this name here, and what lies in it would be believed.
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
            folder.chmod(0o700)
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="outerloop-"))
