"""Who gets in: a Ray that outerloop starts by itself, from outside."""

import os
import subprocess
import sys

import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.ray

STARTS_RAY = """
import sys
import psutil
import ray
import ray._private.worker as ray_driver
from pipeline.connection import connect, disconnect
from tests.pipeline.runs_for_tests import tiny
from tests.processes import wait_until
connect(tiny(workers={"count": 1}))
ray.get(ray.remote(lambda: None).remote())  # there is a worker
me, heard = psutil.Process(), {}

def listeners():
    heard.clear()
    for process in [me, *me.children(recursive=True)]:
        sockets = [one for one in process.net_connections() if one.status == "LISTEN"]
        if sockets:
            heard[process.name()] = {one.laddr.ip.removeprefix("::ffff:") for one in sockets}
    return heard

agents = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}  # the last ones to listen
wait_until(lambda: {name[:15] for name in listeners()} >= {name[:15] for name in agents})
address, dashboard = ray.get_runtime_context().gcs_address, ray_driver._global_node.webui_url
print(address, repr(dashboard), *set().union(*heard.values()), flush=True)
sys.stdin.read()
disconnect(True)
"""
JOINS_IT = """
import sys
import ray
import ray._private.ray_constants as ray_constants
ray_constants.ENABLE_RAY_CLUSTER = False  # or it takes the address for that of another machine
ray.init(address=sys.argv[1], log_to_driver=False)
print("joined")
"""


def test_a_local_ray_is_for_this_machine_and_whoever_has_its_token(
    monkeypatch,
):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_RAY],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        address, dashboard, *heard = process.stdout.readline().split()
        assert dashboard == "''"
        assert heard == ["127.0.0.1"]
        assert "joined" not in join(address, RAY_AUTH_TOKEN="0" * 64)
        assert "joined" in join(address)


def join(address, **environment):
    """Join the cluster at `address`; return what the process that tries says."""
    done = subprocess.run(
        [sys.executable, "-c", JOINS_IT, address],
        env=os.environ | {"RAY_AUTH_MODE": "token"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout
