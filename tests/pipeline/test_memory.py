"""I3: peak memory does not depend on the number of inner steps."""

from __future__ import annotations

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
