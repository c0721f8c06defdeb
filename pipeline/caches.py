"""A temporary folder for what is kept in the user's home, where that cannot be written.

Nothing else is imported here: matplotlib looks for its folder as soon as it is imported.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
import tempfile
from pathlib import Path

from platformdirs import user_cache_path, user_config_path


def replace_unwritable_caches() -> str:
    """Let what is kept in the user's home go to a temporary folder where home cannot be written.

    A container's user often has a home that cannot be written. The choice is made in this
    process's environment, so that the processes it starts make the same one. What the
    environment names already is left as it is.

    Returns:
        A line that says so if decoded data sets are concerned, else nothing.
    """
    # Without it matplotlib warns of the home in every process, and makes a folder in each.
    if not os.environ.get("MPLCONFIGDIR") and any(map(why_unwritable, _matplotlib_folders())):
        os.environ["MPLCONFIGDIR"] = str(_temporary_folder() / "matplotlib")
    if os.environ.get("OUTERLOOP_CACHE"):
        return ""
    folder = user_cache_path("outerloop")
    reason = why_unwritable(folder)
    if not reason:
        return ""
    os.environ["OUTERLOOP_CACHE"] = str(_temporary_folder() / "decoded")
    return (
        f"{folder}: cannot be written: {reason}; decoded data sets go to "
        f"{os.environ['OUTERLOOP_CACHE']} this time; set OUTERLOOP_CACHE to a folder that lasts"
    )


def replace_unwritable_ray_token() -> None:
    """Give a Ray that is to be started here a token for this time where it cannot keep one.

    It would write one to the user's home, and fails if it cannot.
    """
    folder = Path("~/.ray").expanduser()
    names_token = os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
    if names_token or os.access(folder / "auth_token", os.R_OK):
        return
    if why_unwritable(folder):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def why_unwritable(folder: Path) -> str:
    """Return why no file can be made in `folder`, which is made itself; nothing if one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _matplotlib_folders() -> tuple[Path, ...]:
    """Return where matplotlib keeps its settings and its list of fonts."""
    if sys.platform.startswith(("linux", "freebsd")):
        return user_config_path("matplotlib"), user_cache_path("matplotlib")
    return (Path("~/.matplotlib").expanduser(),)


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
