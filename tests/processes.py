"""Real processes for tests: killed in the middle of their work, or short of disk."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Run the Python `script` in a process of its own; it can import our packages."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def kill_after(num_lines: int, delay_s: float, script: str, *arguments: object) -> list[str]:
    """SIGKILL the script `delay_s` after its `num_lines`-th line; return the lines it printed."""
    process = start(script, *arguments)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(num_lines)]
    # The moment of death is what varies between the cases of a test: nothing is waited for.
    time.sleep(delay_s)
    process.kill()
    rest, errors = process.communicate()
    assert process.returncode == -9, errors
    # A line that the kill tore promises nothing.
    return [line.strip() for line in [*lines, *rest.splitlines(keepends=True)] if line[-1:] == "\n"]


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Return as soon as `condition` holds; fail when it does not within `timeout_s`."""
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)
