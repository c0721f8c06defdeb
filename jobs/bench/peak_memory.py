"""How much memory a piece of work needs beyond what its process holds before."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20


def peak_mib(work: Callable[[], object]) -> float:
    """Run `work`; return the peak of resident memory during it above that before it, in MiB.

    On Linux from the kernel's high-water mark, set back first. `ru_maxrss` alone does not do: it
    begins at the size of the process that started this one. Elsewhere it has to; what `work` needs
    below an earlier peak then goes unseen.
    """
    if sys.platform != "linux":
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        unit = 1 if sys.platform == "darwin" else 1024
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / MIB
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_kib("VmHWM")
    work()
    return (_status_kib("VmHWM") - before) * 1024 / MIB


def _status_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))
