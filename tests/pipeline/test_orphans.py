"""Actors that outlive the Ray that started them are ended, and no others."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from pipeline.orphans import end_orphans
from tests.processes import start, wait_until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(sys.platform != "linux", reason="finds actors by their titles"),
]
DRIVER = """
import time
from pipeline.cluster import RayBackend
from pipeline.server import Start
from tests.pipeline.runs_for_tests import tiny

backend = RayBackend(tiny(workers={"count": 1}), Start())
print(*backend.worker_pids(), *backend.shard_pids(), flush=True)
time.sleep(600)
"""


def test_an_actor_whose_raylet_is_dead_is_ended_and_those_at_work_are_not(caplog):
    """By its title: whether the kernel leaves a stopped actor alive depends on its terminal."""
    driver = start(DRIVER)
    at_work = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
    left = subprocess.Popen(["/bin/bash", "-c", "exec -a ray::TaskServer.run sleep 600"])
    try:
        wait_until(lambda: psutil.Process(left.pid).cmdline()[0] == "ray::TaskServer.run")
        assert end_orphans() == 1
        assert left.wait(60) == -signal.SIGKILL
        assert f"ended what a dead run left behind: process {left.pid}" in caplog.text
        assert all(alive(process) for process in at_work)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        for process in at_work:  # they end by themselves
            wait_until(lambda process=process: not alive(process))
    finally:
        driver.kill()
        left.kill()


def alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
