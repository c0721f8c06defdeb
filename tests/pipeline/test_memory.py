"""I3: peak memory does not depend on the number of inner steps."""

from __future__ import annotations

import json

import pytest

from tests.processes import start

MEASURE = """
import resource, sys, tempfile
from pathlib import Path
from pipeline.local import LocalBackend
from pipeline.server import Start
from tests.pipeline.runs_for_tests import make_trainer, tiny

steps = int(sys.argv[1])
experiment = tiny(
    inner={"num_steps": steps, "segment_steps": 50, "precision": "float32"},
    meta={"num_steps": 1, "batch_size": 1},
    task={"batch_size": 2, "augment": False},
    model={"num_filters": 4},
)
with tempfile.TemporaryDirectory() as folder:
    trainer, _ = make_trainer(experiment, LocalBackend(experiment, Start()), Path(folder))
    trainer.train(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(num_steps: int) -> int:
    process = start(MEASURE, num_steps)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return int(output)


def test_peak_memory_of_ten_thousand_steps_is_that_of_a_hundred():
    """Worker, aggregator and driver in one process; longer trajectories spill to disk."""
    short, long = peak_kib(100), peak_kib(10_000)
    assert long < 1.03 * short, f"{short} KiB at 100 steps, {long} KiB at 10,000"


WATCH_ON_RAY = """
import json, sys, tempfile
from pathlib import Path
import psutil, ray
from pipeline.cluster import RayBackend
from pipeline.server import Start
from tests.pipeline.runs_for_tests import make_trainer, tiny

steps = int(sys.argv[1])
experiment = tiny(
    inner={
        "num_steps": steps,
        "segment_steps": 100,
        "checkpoint_every": 5000,
        "precision": "float32",
    },
    meta={"num_steps": 1, "batch_size": 1},
    task={"batch_size": 2, "augment": False},
    model={"num_filters": 4},
    workers={"count": 1},
)
backend = RayBackend(experiment, Start())
pids = {"worker": backend.worker_pids()[0], "aggregator": backend.shard_pids()[0]}
processes = {name: psutil.Process(pid) for name, pid in pids.items()} | {"driver": psutil.Process()}
store = ray.cluster_resources()["object_store_memory"]
samples = []
with tempfile.TemporaryDirectory() as folder:
    trainer, _ = make_trainer(experiment, backend, Path(folder))
    take = trainer._take

    def take_and_look(segment):
        record = take(segment)
        if record.num_steps % (steps // 20) == 0:
            kib = {name: process.memory_info().rss / 1024 for name, process in processes.items()}
            used = store - ray.available_resources().get("object_store_memory", 0)
            disk = sum(path.stat().st_size for path in Path(folder).rglob("rows-*"))
            at = {"object store": used / 1024, "rows": disk, "at": record.num_steps}
            samples.append(kib | at)
        return record

    trainer._take = take_and_look
    trainer.train(1)
    files = list(Path(folder, "trajectories").rglob("*.parquet"))
    size = sum(file.stat().st_size for file in files)
backend.close()
print(json.dumps({"samples": samples, "bytes_per_step": size / steps}))
"""


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3000)
def test_memory_is_flat_over_two_hundred_thousand_steps_on_ray():
    """Within 2 % from a tenth of the task to its end: worker, driver, aggregator, object store."""
    output, errors = start(WATCH_ON_RAY, 200_000).communicate()
    found = json.loads(output.splitlines()[-1]) if output else errors
    print(json.dumps(found, indent=1))
    samples = found["samples"]
    for name in ("worker", "driver", "aggregator"):
        early, late = samples[1][name], max(sample[name] for sample in samples[2:])
        assert late < 1.02 * early, (name, early, late)
    assert max(sample["object store"] for sample in samples) < 20_000
    assert found["bytes_per_step"] < 60
