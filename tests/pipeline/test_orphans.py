"""Actors that outlive the Ray that started them are ended, and no others."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import psutil
import pytest

from pipeline import orphans
from tests.processes import start, wait_until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(sys.platform != "linux", reason="finds actors by their titles"),
]
LEFT = "ray::ActorLeftByATest"
DRIVER = """
import time
from pipeline.cluster import RayBackend
from pipeline.server import Start
from tests.pipeline.runs_for_tests import tiny

backend = RayBackend(tiny(workers={"count": 1}), Start())
print(*backend.worker_pids(), *backend.shard_pids(), flush=True)
time.sleep(600)
"""


def test_an_actor_whose_raylet_is_dead_is_ended_and_those_at_work_are_not(caplog, monkeypatch):
    """By its title: whether the kernel leaves a stopped actor alive depends on its terminal.

    Under a title of its own: tests beside this one end what bears the actors' titles too.
    """
    monkeypatch.setattr(orphans, "TITLES", (*orphans.TITLES, LEFT))
    driver = start(DRIVER)
    at_work = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
    left = subprocess.Popen(["/bin/bash", "-c", f"exec -a {LEFT} sleep 600"])
    try:
        wait_until(lambda: psutil.Process(left.pid).cmdline()[:1] == [LEFT])
        count = orphans.end_orphans()
        assert left.wait(60) == -signal.SIGKILL
        said = re.search(r"ended what a dead run left behind: process ([\d, ]+)", caplog.text)
        ended = {int(pid) for pid in said[1].split(", ")}
        assert count == len(ended)
        assert left.pid in ended
        assert not ended & {process.pid for process in at_work}
        assert all(alive(process) for process in at_work)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        for process in at_work:  # they end by themselves
            wait_until(lambda process=process: not alive(process))
    finally:
        driver.kill()
        driver.communicate()
        left.kill()
        left.wait()


def alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
