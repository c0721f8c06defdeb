"""Who is at work on a run, told to other machines by a file beside its copies.

    owner.json: {"writer": …, "host": …, "pid": …, "process": …, "heard": …, "is_over": false}

It is written again every BEAT_EVERY_S seconds. Whoever wants to go on with the run elsewhere is
refused while it is fresh: two machines on one run would both put points into its curves. A process
of this machine is looked for; of another one the clock decides, so clocks should agree within a
minute. Storage knows no locks: of two that begin at once, the first to find the other's name stops.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import socket
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.copy_manifest import shown
from pipeline.storage import DamagedObjectError, Storage

OWNER = "owner.json"
BEAT_EVERY_S = 20.0
FRESH_S = 120.0
MAX_OWNER_BYTES = 4096
READ_ATTEMPTS = 3
READ_AGAIN_AFTER_S = 0.2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that is at work on a run, or was."""

    writer: str  # a random name
    host: str
    pid: int
    process: str  # tells it from others of this number, on this machine and on others
    heard: float  # when it was last heard of, seconds since the epoch
    is_over: bool  # whether it has ended its work

    @classmethod
    def here(cls, writer: str) -> Owner:
        """Return this process."""
        pid = os.getpid()
        return cls(writer, socket.gethostname(), pid, _process(pid), time.time(), False)

    def blocks_for_s(self) -> float:
        """Return for how long to keep off the run, unless it is heard of again; 0: no longer."""
        if self.is_over or self._is_dead():
            return 0.0
        return max(0.0, FRESH_S - max(0.0, time.time() - self.heard))

    def _is_dead(self) -> bool:
        """Tell whether it was a process of this machine that is no more."""
        system, _, start = self.process.rpartition("/")
        here = _process(os.getpid()).rpartition("/")[0]
        return bool(system) and system == here and _process(self.pid).rpartition("/")[2] != start


def read_owner(storage: Storage) -> Owner | None:
    """Return who was at work last; None if nobody ever was, or the file is damaged.

    One that seems damaged may be half written, and is read again.
    """
    for _ in range(READ_ATTEMPTS):
        try:
            return _decoded(storage.read(OWNER, MAX_OWNER_BYTES))
        except FileNotFoundError:
            return None
        except (DamagedObjectError, ValueError, TypeError, RecursionError):
            pass
        time.sleep(READ_AGAIN_AFTER_S)
    logger.warning("%s beside the copies is damaged: it is not known who is at work", OWNER)
    return None


def _decoded(data: bytes) -> Owner:
    """Return the owner that `data` names; ValueError or TypeError if it names none."""
    owner = Owner(**json.loads(data))
    texts = (owner.writer, owner.process, owner.host)
    if not all(isinstance(text, str) for text in texts) or not isinstance(owner.pid, int):
        raise ValueError("names no process")
    heard = float(owner.heard)
    if not math.isfinite(heard):
        raise ValueError("names no time")
    return replace(owner, heard=heard, host=shown(owner.host))


def write_owner(storage: Storage, owner: Owner, is_over: bool = False) -> None:
    """Say that `owner` is at work now, or that it has ended its work."""
    now = replace(owner, heard=time.time(), is_over=is_over)
    storage.write(OWNER, [json.dumps(asdict(now)).encode()])


def _process(pid: int) -> str:
    """Return `<boot of the machine>-<its process numbers>/<when the process started>`."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux: a process is known by its clock alone
        return ""
    start = ""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        start = "" if fields[0] == "Z" else fields[19]
    return f"{boot}-{numbers}/{start}"
