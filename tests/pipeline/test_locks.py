"""Locks of files, also of folders that are moved while others wait for them."""

from __future__ import annotations

import pytest

from pipeline import locks
from pipeline.errors import BadInputError
from pipeline.locks import HeldError, locked_file
from pipeline.runs import RunFolder


def test_a_lock_is_held_by_one_and_names_its_holder(tmp_path):
    path = tmp_path / "lock"
    held = pytest.raises(HeldError, match=r"process \d+ on ")
    with locked_file(path, is_kept=False), held, locked_file(path):
        pass
    assert not path.exists()
    with locked_file(path):
        pass
    assert path.exists()


def test_whoever_waits_for_a_run_that_is_moved_away_locks_the_one_in_its_place(
    tmp_path, monkeypatch
):
    run, aside = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "aside")
    run.path.mkdir()
    holding = run.locked()
    holding.__enter__()

    def is_displaced(_seconds):
        if not aside.path.exists():
            run.path.rename(aside.path)
            run.path.mkdir()
            holding.__exit__(None, None, None)

    monkeypatch.setattr(locks.time, "sleep", is_displaced)
    with run.locked():
        assert run.is_in_use()
        assert not aside.is_in_use()
        with pytest.raises(BadInputError, match="in use"), run.locked():
            pass
