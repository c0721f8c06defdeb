"""Runs a command that ends when the process that started this one does, even by SIGKILL.

    python -m jobs.leash COMMAND…

The starter holds the other end of this process's standard input and never writes to it: where the
input ends, the starter has. The system tells of it on every platform, and whichever thread started
this. Then all of the process group is asked to end, which the starter made for it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main() -> int:
    """Run the command and return its exit code."""
    # The group's SIGTERM is meant for the command; this process ends when that has.
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_starter, daemon=True).start()
    return process.wait()


def _end_with_starter() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.killpg(os.getpgid(0), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
