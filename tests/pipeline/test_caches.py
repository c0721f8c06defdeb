"""A home that cannot be written: its caches go elsewhere, in silence but for one line."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.caches import replace_unwritable_caches
from tests.processes import ROOT

NAMES = ("OUTERLOOP_CACHE", "MPLCONFIGDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home that is a file: nothing can be made in it, by nobody."""
    home = tmp_path / "home"
    home.touch()
    for name in (*NAMES, "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return home


def test_a_home_that_can_be_written_is_used(home):
    home.unlink()
    assert replace_unwritable_caches() == ""
    assert not os.environ.keys() & set(NAMES)


def test_a_home_that_cannot_be_written_is_replaced_by_one_temporary_folder(home, monkeypatch):
    warning = replace_unwritable_caches()
    assert "cannot be written: Not a directory" in warning
    assert "set OUTERLOOP_CACHE" in warning
    first = Path(os.environ["OUTERLOOP_CACHE"])
    assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700
    assert os.environ["RAY_AUTH_TOKEN"]
    monkeypatch.delenv("OUTERLOOP_CACHE")
    replace_unwritable_caches()
    assert os.environ["OUTERLOOP_CACHE"] == str(first)  # decoded once, not in every run


def test_what_the_environment_names_stays(home, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_CACHE", "/mine")
    monkeypatch.setenv("MPLCONFIGDIR", "/mine too")
    assert replace_unwritable_caches() == ""
    assert (os.environ["OUTERLOOP_CACHE"], os.environ["MPLCONFIGDIR"]) == ("/mine", "/mine too")


def test_a_folder_that_someone_else_put_there_is_not_trusted(home, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"outerloop-{os.getuid()}").symlink_to(tmp_path / "theirs")
    replace_unwritable_caches()
    assert Path(os.environ["OUTERLOOP_CACHE"]).parent.name != f"outerloop-{os.getuid()}"
    assert list((tmp_path / "theirs").iterdir()) == []


def test_matplotlib_says_nothing_of_such_a_home(home, tmp_path):
    script = (
        "from pipeline.caches import replace_unwritable_caches\n"
        "replace_unwritable_caches()\n"
        "from pipeline.data import load_dataset\n"
        "print(load_dataset('glyphs').name)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("glyphs\n", "")
