"""Actors that outlive the Ray that started them are ended, and no others."""

from __future__ import annotations

import signal
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


def test_a_stopped_actor_of_a_dead_run_is_ended_and_one_at_work_is_not(caplog):
    driver = start(DRIVER)
    worker, aggregator = map(psutil.Process, map(int, driver.stdout.readline().split()))
    try:
        worker.suspend()
        assert end_orphans() == 0
        assert worker.status() == psutil.STATUS_STOPPED
        raylet = next(one for one in worker.parents() if one.name() == "raylet")
        raylet.kill()  # or it might have the time to end it
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        wait_until(lambda: not alive(aggregator))  # it ends by itself
        assert worker.status() == psutil.STATUS_STOPPED
        assert end_orphans() == 1
        assert f"ended what a dead run left behind: process {worker.pid}" in caplog.text
        wait_until(lambda: not alive(worker))
    finally:
        driver.kill()
        if alive(worker):
            worker.kill()


def alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
