"""Who gets in: a Ray that outerloop starts by itself, from outside."""

import os
import subprocess
import sys

import pytest

from tests.processes import ROOT

pytestmark = pytest.mark.ray

STARTS_RAY = """
import sys
import ray
from ray._private.worker import _global_node
from pipeline.connection import connect, disconnect
from tests.pipeline.runs_for_tests import tiny
connect(tiny(workers={"count": 1}))
print(ray.get_runtime_context().gcs_address, repr(_global_node.webui_url), flush=True)
sys.stdin.read()
disconnect(True)
"""
JOINS_IT = """
import sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("joined")
"""


def test_a_local_ray_lets_nobody_in_without_its_token_and_serves_no_dashboard(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    process = subprocess.Popen(
        [sys.executable, "-c", STARTS_RAY],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        address, dashboard = process.stdout.readline().split()
        assert dashboard == "''"
        wrong = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
        command = [sys.executable, "-c", JOINS_IT, address]
        joined = subprocess.run(
            command, env=wrong, capture_output=True, text=True, timeout=120, check=False
        )
        assert joined.returncode != 0
        assert "joined" not in joined.stdout
        right = os.environ | {"RAY_AUTH_MODE": "token"}
        joined = subprocess.run(
            command, env=right, capture_output=True, text=True, timeout=120, check=False
        )
        assert "joined" in joined.stdout, joined.stderr[-500:]
    finally:
        process.stdin.close()
        process.wait(60)
