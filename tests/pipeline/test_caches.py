"""A home that cannot be written: its caches go elsewhere, in silence but for one line."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.caches import replace_unwritable_caches, replace_unwritable_ray_token
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
    replace_unwritable_ray_token()
    assert not os.environ.keys() & set(NAMES)


def test_a_home_that_cannot_be_written_is_replaced_by_one_temporary_folder(home, monkeypatch):
    warning = replace_unwritable_caches()
    assert "cannot be written: Not a directory" in warning
    assert "set OUTERLOOP_CACHE" in warning
    first = Path(os.environ["OUTERLOOP_CACHE"])
    assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700
    monkeypatch.delenv("OUTERLOOP_CACHE")
    replace_unwritable_caches()
    assert os.environ["OUTERLOOP_CACHE"] == str(first)  # decoded once, not in every run


def test_a_cache_that_can_be_written_is_used_though_home_cannot(home, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert replace_unwritable_caches() == ""
    assert "OUTERLOOP_CACHE" not in os.environ
    assert os.environ["MPLCONFIGDIR"]  # matplotlib's settings are kept in the home


def test_a_cache_that_cannot_be_written_is_no_reason_to_replace_the_rest(
    home, tmp_path, monkeypatch
):
    home.unlink()
    (tmp_path / "cache" / "matplotlib").mkdir(parents=True)
    (tmp_path / "cache" / "outerloop").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "set OUTERLOOP_CACHE" in replace_unwritable_caches()
    replace_unwritable_ray_token()
    assert not os.environ.keys() & {"MPLCONFIGDIR", "RAY_AUTH_TOKEN"}


def test_ray_gets_a_token_only_where_it_can_neither_keep_nor_find_one(home, monkeypatch):
    replace_unwritable_ray_token()
    first = os.environ["RAY_AUTH_TOKEN"]
    assert len(first) >= 32
    replace_unwritable_ray_token()
    assert os.environ["RAY_AUTH_TOKEN"] == first
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/mine")
    replace_unwritable_ray_token()
    assert "RAY_AUTH_TOKEN" not in os.environ


NOBODY = 65534


def test_a_home_that_may_not_be_searched_is_one_that_cannot_be_written(tmp_path):
    """Root may search every folder, so the script goes on as another user."""
    script = (
        "import os, sys\n"
        "from pipeline.caches import *\n"
        f"os.getuid() or os.setuid({NOBODY})\n"
        "replace_unwritable_ray_token()\n"
        "print(why_unwritable(user_cache_path('outerloop')), len(os.environ['RAY_AUTH_TOKEN']))"
    )
    (tmp_path / "home" / ".ray").mkdir(parents=True)
    (tmp_path / "home").chmod(0)
    environment = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    (tmp_path / "home").chmod(0o700)
    assert (done.stdout, done.stderr) == ("Permission denied 64\n", "")


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
