"""Where a chaos bench works, and what clears that when the bench ends, even by SIGKILL.

    python -m jobs.bench.ground FOLDER

is a process beside the bench, which holds the other end of its standard input: where that ends,
the bench has (`jobs.leash` ends one command in this way). What the bench starts has a session of
its own and bears a mark in its environment, so it is known also when its parents are dead, as those
of Ray's processes are whose driver was killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from pipeline.errors import RunFailedError
from pipeline.interrupt import stop_signals
from pipeline.locks import HeldError, locked_file

MARK = "OUTERLOOP_CHAOS"
PREFIX = "outerloop-chaos-"
IN_USE = "in_use"  # its lock is held as long as there is somebody to clear the folder
DISK_MIB = 256
KEEP, READY = b"keep", b"ready\n"
END_TIMEOUT_S = 5.0  # for processes that were killed to be gone


class Ground:
    """A temporary folder, and a small disk in it if this process may mount one.

    A context manager. When its block ends, all that was started in it is ended too, the disk is
    gone and so is the folder; but for the folder after an error, whose line names a log in there.

    Attributes:
        folder: The folder.
        disk: Where runs are, on the small disk if there is one.
        is_small: Whether there is one.
        mark: Environment of whatever is started here, with a session of its own.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._keeper: subprocess.Popen[bytes] | None = _start_keeper(self.folder)
        self.mark = {MARK: str(self.folder)}
        self.is_small = _mount(_small(self.folder))
        self.disk = _small(self.folder) if self.is_small else self.folder / "disk"
        self.disk.mkdir(exist_ok=True)

    def __enter__(self) -> Ground:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.clear(is_kept=kind is not None and issubclass(kind, Exception))

    def clear(self, is_kept: bool = False) -> None:
        """Clear it now and wait until it is; a second call does nothing."""
        # A signal handler may come in the midst of this, and ends the process: the keeper goes on.
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        keeper.communicate(KEEP if is_kept else b"")
        if keeper.returncode:  # it was killed
            clear(self.folder, is_kept)


def clear_dead_grounds() -> None:
    """Clear what this user's earlier benches left that were killed together with their keepers."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(HeldError, OSError):
            is_own = folder.lstat().st_uid == os.getuid() and not folder.is_symlink()
            if is_own and (folder / IN_USE).is_file():
                with locked_file(folder / IN_USE, is_kept=False):
                    clear(folder)


def clear(folder: Path, is_kept: bool = False) -> None:
    """End what was started there, and remove the disk and, unless it is kept, the folder."""
    while marked := list(_marked(str(folder))):
        for process in marked:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(marked, END_TIMEOUT_S)
    if os.path.ismount(_small(folder)):
        umount = ["umount", "--lazy", str(_small(folder))]
        subprocess.run(umount, check=False, capture_output=True)
    if not is_kept:
        shutil.rmtree(folder, ignore_errors=True)


def _marked(folder: str) -> Iterator[psutil.Process]:
    """Yield the living processes that bear the mark, and the others of their sessions.

    Ray's agents write their names over their environment, but stay in their driver's session. A
    session in which the leader lives and bears no mark is not ours, whoever is in it.
    """
    ours, others = set(), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.uids().real != os.getuid():
                continue
            session = os.getsid(process.pid)
            if process.environ().get(MARK) == folder:
                ours.add(session)
                yield process
            else:
                others.append((session, process))
    ours -= {process.pid for _, process in others}
    yield from (process for session, process in others if session in ours)


def _start_keeper(folder: Path) -> subprocess.Popen[bytes]:
    keeper = subprocess.Popen(
        [sys.executable, "-m", "jobs.bench.ground", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # what ends this process group is not for it
    )
    assert keeper.stdout is not None
    if keeper.stdout.readline() != READY:
        raise RunFailedError(f"bench chaos: {folder} cannot be kept in order")
    return keeper


def _small(folder: Path) -> Path:
    return folder / "small"


def _mount(disk: Path) -> bool:
    """Have a small disk there; False if this process may not mount one."""
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_MIB}m", "outerloop-chaos", str(disk)]
    try:
        subprocess.run(["mount", *options], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def main() -> None:
    """Wait for the bench to end, then clear its ground."""
    for number in stop_signals():  # meant for the bench: this process ends when that has
        signal.signal(number, signal.SIG_IGN)
    folder = Path(sys.argv[1])
    with locked_file(folder / IN_USE, is_kept=False):
        os.write(1, READY)
        clear(folder, is_kept=sys.stdin.buffer.read() == KEEP)


if __name__ == "__main__":
    main()
