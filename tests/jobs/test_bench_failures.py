"""The benches of failures on small runs: what they do is done, and what they say is there."""

import json
import os
import subprocess
import sys

import pytest

from jobs.bench import chaos, recovery, soak

TINY = (
    "data.num_train_tasks=4",
    "task.num_ways=3",
    "task.batch_size=2",
    "model.num_filters=4",
    "meta.batch_size=4",
)


@pytest.mark.ray
def test_recovery_is_measured_from_a_death_to_the_task_running_again():
    figures = recovery.run(1, (*TINY, "inner.num_steps=100"))
    assert figures["deaths"] == 1
    assert 0 < figures["recovery_s_median"] == figures["recovery_s_max"] < 60
    assert 0 < figures["checkpoint_share"] < 1
    assert 0 < figures["inner_checkpoint_share"] < 1


@pytest.mark.ray
def test_a_soak_counts_tasks_memory_and_handles_of_every_process(monkeypatch):
    monkeypatch.setattr(soak, "SAMPLE_EVERY_S", 0.2)
    figures = soak.run(0.05, None, (*TINY, "inner.num_steps=10"))
    assert figures["tasks"] > 0
    names = {"driver", "aggregator 0", "worker 0", "worker 1"}
    assert figures["memory_growth"].keys() == figures["handles_last"].keys() == names
    assert figures["tasks_per_s"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_under_chaos_ends_as_a_quiet_one():
    command = [sys.executable, "-m", "jobs.cli", "--json", "bench", "chaos", "--faults", "4"]
    done = subprocess.run(
        command, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, said
    assert said["bitwise_equal"]
    assert said["verify_ok"]
    assert said["num_faults"] == 4


def test_a_cluster_of_other_sizes_is_refused():
    with pytest.raises(ValueError, match="--nodes=3: expected 1 or 2"):
        chaos.run(1, nodes=3)
