"""A real cluster of two nodes with a job server, and a real MLflow server."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.bench.chaos_processes import Nodes, Server

# A node that is gone is missed within two seconds, and not after half a minute.
QUICK = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}


@dataclass(frozen=True)
class Cluster:
    nodes: Nodes
    runs: Path  # OUTERLOOP_HOME of its drivers
    tracking: Server


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="ray-") as short,  # a socket's path is 107 bytes at most
        Server(folder / "mlflow") as tracking,
    ):
        patch.setenv("OUTERLOOP_HOME", str(folder / "runs"))  # as on the nodes of a cluster
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        nodes = Nodes(Path(short) / "n", 2, has_jobs=True)
        nodes.environment |= QUICK
        with nodes:
            yield Cluster(nodes, folder / "runs", tracking)


@pytest.fixture
def cluster(running_cluster, monkeypatch, tmp_path):
    """The cluster, as a client sees it that has a token and runs of its own."""
    for name, value in running_cluster.nodes.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", running_cluster.nodes.job_server)
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running_cluster.tracking.address)
    return running_cluster
