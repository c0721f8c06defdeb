"""The ground of a chaos bench: nothing of it stays, whoever is killed; nothing else is touched."""

import contextlib
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest

from jobs.bench.ground import IN_USE, MARK, Ground, clear, clear_dead_grounds
from tests.processes import start, wait_until

# Two processes as chaos has them: one that bears the mark, one of its session that lost it.
STARTS_TWO = """
import os, signal, subprocess
from jobs.bench.ground import Ground
with Ground() as ground:
    script = "env -i sleep 600 & echo $! $$; exec sleep 600"
    child = subprocess.Popen(
        ["sh", "-c", script], env=os.environ | ground.mark, start_new_session=True,
        stdout=subprocess.PIPE, text=True,
    )
    print(ground.folder, ground._keeper.pid, child.stdout.readline(), flush=True)
    signal.pause()
"""


@pytest.fixture(autouse=True)
def temporary_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def bench():
    """A bench's process, its folder, its keeper, and what it started."""
    process = start(STARTS_TWO)
    folder, *pids = process.stdout.readline().split()
    keeper, *started = map(psutil.Process, map(int, pids))
    try:
        yield process, Path(folder), keeper, started
    finally:
        for one in (process, keeper, *started):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.communicate()


def is_mounted(folder):
    return str(folder) in subprocess.run(["mount"], capture_output=True, text=True).stdout


def test_all_is_cleared_when_the_bench_is_killed(bench):
    process, folder, keeper, started = bench
    process.kill()
    _, alive = psutil.wait_procs([keeper, *started], 60)
    assert not alive
    assert not folder.exists()
    assert not is_mounted(folder)


def test_the_next_bench_clears_what_was_killed_with_its_keeper(bench):
    process, folder, keeper, started = bench
    clear_dead_grounds()
    assert folder.exists()  # its bench lives
    keeper.kill()
    process.kill()
    process.wait()
    psutil.wait_procs([keeper], 60)
    assert all(one.is_running() for one in started)
    clear_dead_grounds()
    _, alive = psutil.wait_procs(started, 60)
    assert not alive
    assert not folder.exists()
    assert not is_mounted(folder)


def test_a_folder_that_is_kept_after_an_error_is_left_alone():
    ground = Ground()
    (ground.folder / "log.txt").write_text("why")
    with pytest.raises(ZeroDivisionError), ground:
        raise ZeroDivisionError
    clear_dead_grounds()
    assert (ground.folder / "log.txt").read_text() == "why"
    assert not (ground.folder / IN_USE).exists()
    assert not is_mounted(ground.folder)


def test_a_killed_keeper_is_not_missed():
    with Ground() as ground:
        os.kill(ground._keeper.pid, signal.SIGKILL)
    assert not ground.folder.exists()
    assert not is_mounted(ground.folder)


def test_who_shares_a_session_that_is_not_ours_is_left_alone(tmp_path):
    script = f"{MARK}={tmp_path} sleep 600 & echo $!; sleep 600 & echo $!; wait"
    shell = subprocess.Popen(
        ["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    ours, stranger = (psutil.Process(int(shell.stdout.readline())) for _ in range(2))
    try:
        wait_until(lambda: ours.environ().get(MARK) == str(tmp_path))
        clear(tmp_path, is_kept=True)
        assert stranger.is_running()
        assert shell.poll() is None
        assert not ours.is_running() or ours.status() == psutil.STATUS_ZOMBIE
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()
