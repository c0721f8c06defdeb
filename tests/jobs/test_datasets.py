"""`outerloop data`: what is printed of data sets, and of a home that cannot be written."""

import os

import pytest
from rich.console import Console

from jobs import cli, datasets
from tests.pipeline.data.archives import write_small_omniglot


@pytest.fixture
def root(tmp_path, monkeypatch):
    root = tmp_path.joinpath(*["a-folder-of-a-long-name"] * 5)
    monkeypatch.setenv("OUTERLOOP_DATA", str(root))
    return root


def test_no_path_is_cut_on_a_narrow_terminal(root, capsys):
    datasets.show(Console(width=40))
    assert (
        f"omniglot: {root}/omniglot/images_background.zip: not found; " in capsys.readouterr().out
    )


def test_a_damaged_archive_is_not_there(root, capsys):
    write_small_omniglot(root / "omniglot")  # by far not all of Omniglot's drawings
    shown = datasets.show(Console(width=80))
    assert not shown["datasets"]["omniglot"]["present"]
    output = capsys.readouterr().out
    assert "partly" in output
    assert f"omniglot: {root}/omniglot/images_background.zip: " in output


def test_a_home_that_cannot_be_written_is_one_line_of_warning(tmp_path, monkeypatch, capsys):
    (tmp_path / "home").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("OUTERLOOP_CACHE", "MPLCONFIGDIR", "RAY_AUTH_TOKEN", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    assert cli.run(["experiments"]) == 0
    warning = capsys.readouterr().err
    assert warning.startswith("warning: ")
    assert "set OUTERLOOP_CACHE to a folder that lasts" in warning
    assert warning.count("\n") == 1
    assert os.environ["OUTERLOOP_CACHE"] in warning
