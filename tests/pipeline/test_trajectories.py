import os

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RunFailedError
from pipeline.messages import TRAJECTORY_SCHEMA
from pipeline.trajectories import MAX_BUFFERED_ROWS, TrajectoryWriter, read_trajectories
from tests.processes import kill_after, start

LONG = 3 * MAX_BUFFERED_ROWS + 17

COMMITS_FOREVER = """
import sys, pathlib
from pipeline.trajectories import TrajectoryWriter
from tests.pipeline.test_trajectories import stream
writer = TrajectoryWriter(pathlib.Path(sys.argv[1]))
meta_step = 0
while True:
    stream(writer, meta_step, task=0, attempt=0, num_steps=5000)
    stream(writer, meta_step, task=1, attempt=0, num_steps=50)
    writer.commit(meta_step, {0: 0, 1: 0})
    print(meta_step, flush=True)
    meta_step += 1
"""

COMMITS_WITH_SMALL_FILES_ONLY = """
import resource, sys, pathlib
from pipeline.trajectories import TrajectoryWriter
from tests.pipeline.test_trajectories import stream
writer = TrajectoryWriter(pathlib.Path(sys.argv[1]))
stream(writer, 1, task=0, attempt=0, num_steps=4000)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
writer.commit(1, {0: 0})
"""


def rows(meta_step, task, attempt, first, num_steps):
    steps = np.arange(first, first + num_steps)
    columns = {
        "meta_step": np.full(num_steps, meta_step),
        "task": np.full(num_steps, task),
        "task_name": [f"task {task}"] * num_steps,
        "attempt": np.full(num_steps, attempt),
        "step": steps,
        "error": [None] * num_steps,
        "env_steps": steps,
    }
    arrays = [
        pa.array(columns.get(field.name, steps / 7)).cast(field.type) for field in TRAJECTORY_SCHEMA
    ]
    return pa.record_batch(arrays, schema=TRAJECTORY_SCHEMA)


def stream(writer, meta_step, task, attempt, num_steps, segment=1000):
    for first in range(0, num_steps, segment):
        size = min(segment, num_steps - first)
        writer.add(meta_step, task, attempt, rows(meta_step, task, attempt, first, size))


def assert_holds(table, *attempts):
    """The table is, in this order, all steps of each (meta_step, task, attempt, num_steps)."""
    assert table.schema == TRAJECTORY_SCHEMA
    expected = pa.Table.from_batches(
        [rows(meta_step, task, attempt, 0, n) for meta_step, task, attempt, n in attempts],
        TRAJECTORY_SCHEMA,
    )
    assert table.equals(expected)


@pytest.mark.parametrize("num_steps", [10, LONG])
def test_only_accepted_attempts_are_written_in_the_order_of_tasks(tmp_path, num_steps):
    writer = TrajectoryWriter(tmp_path)
    stream(writer, 4, task=2, attempt=0, num_steps=20)
    stream(writer, 4, task=1, attempt=0, num_steps=num_steps)
    stream(writer, 4, task=0, attempt=0, num_steps=30)
    stream(writer, 4, task=1, attempt=1, num_steps=num_steps)
    stream(writer, 4, task=3, attempt=0, num_steps=num_steps)  # not accepted
    writer.commit(4, {2: 0, 0: 0, 1: 1})
    assert_holds(read_trajectories(tmp_path), (4, 0, 0, 30), (4, 1, 1, num_steps), (4, 2, 0, 20))
    assert os.listdir(tmp_path) == ["meta_step=000004"]


def test_segments_of_attempts_that_run_at_once_do_not_mix(tmp_path):
    writer = TrajectoryWriter(tmp_path)
    for first in range(0, LONG, 1000):
        for task in (1, 0):
            size = min(1000, LONG - first)
            writer.add(0, task, 0, rows(0, task, 0, first, size))
    writer.commit(0, {0: 0, 1: 0})
    assert_holds(read_trajectories(tmp_path), (0, 0, 0, LONG), (0, 1, 0, LONG))


def test_memory_does_not_grow_with_the_trajectory(tmp_path):
    writer = TrajectoryWriter(tmp_path)
    stream(writer, 0, task=0, attempt=0, num_steps=2 * MAX_BUFFERED_ROWS, segment=512)
    before = pa.total_allocated_bytes()
    stream(writer, 0, task=0, attempt=0, num_steps=40 * MAX_BUFFERED_ROWS, segment=512)
    assert pa.total_allocated_bytes() - before < 100 * MAX_BUFFERED_ROWS
    writer.commit(0, {0: 0})
    assert read_trajectories(tmp_path).num_rows == 42 * MAX_BUFFERED_ROWS


def test_a_step_taken_again_replaces_its_partition(tmp_path):
    writer = TrajectoryWriter(tmp_path)
    for num_steps in (LONG, 12):
        stream(writer, 1, task=0, attempt=0, num_steps=num_steps)
        writer.commit(1, {0: 0})
    assert_holds(read_trajectories(tmp_path), (1, 0, 0, 12))


def test_a_step_whose_tasks_were_all_bad_has_an_empty_partition(tmp_path):
    writer = TrajectoryWriter(tmp_path)
    stream(writer, 0, task=0, attempt=0, num_steps=5)
    writer.commit(0, {})
    assert_holds(read_trajectories(tmp_path))
    assert os.listdir(tmp_path) == ["meta_step=000000"]


def test_a_discarded_attempt_leaves_nothing(tmp_path):
    writer = TrajectoryWriter(tmp_path)
    stream(writer, 0, task=0, attempt=0, num_steps=LONG)
    writer.discard(0, 0, 0)
    writer.discard(0, 5, 0)
    assert os.listdir(tmp_path) == []


def test_closing_drops_what_was_not_committed(tmp_path):
    writer = TrajectoryWriter(tmp_path)
    stream(writer, 0, task=0, attempt=0, num_steps=LONG)
    writer.close()
    assert os.listdir(tmp_path) == []


def test_other_steps_in_flight_outlast_a_commit(tmp_path):
    writer = TrajectoryWriter(tmp_path)
    for meta_step in (1, 2):
        stream(writer, meta_step, task=0, attempt=0, num_steps=LONG)
    writer.commit(1, {0: 0})
    writer.commit(2, {0: 0})
    assert_holds(read_trajectories(tmp_path), (1, 0, 0, LONG), (2, 0, 0, LONG))


def test_reading_chooses_columns_and_partitions(tmp_path):
    writer = TrajectoryWriter(tmp_path)
    for meta_step in range(12):
        stream(writer, meta_step, task=0, attempt=0, num_steps=5)
        writer.commit(meta_step, {0: 0})
    everything = read_trajectories(tmp_path)
    assert everything["meta_step"].to_pylist() == [m for m in range(12) for _ in range(5)]
    some = read_trajectories(tmp_path, ["meta_step", "step"], ds.field("meta_step") >= 10)
    assert some.to_pydict() == {"meta_step": [10] * 5 + [11] * 5, "step": list(range(5)) * 2}


def test_a_run_without_trajectories_has_no_rows(tmp_path):
    assert_holds(read_trajectories(tmp_path / "missing"))
    assert read_trajectories(tmp_path / "missing", ["loss"]).column_names == ["loss"]


def test_rows_of_another_schema_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not in TRAJECTORY_SCHEMA"):
        TrajectoryWriter(tmp_path).add(0, 0, 0, pa.record_batch({"loss": [1.0]}))


def test_a_partition_is_plain_parquet_that_other_tools_read(tmp_path):
    writer = TrajectoryWriter(tmp_path)
    stream(writer, 3, task=0, attempt=0, num_steps=5)
    writer.commit(3, {0: 0})
    table = pq.read_table(tmp_path / "meta_step=000003" / "part-00000.parquet", partitioning=None)
    assert table["step"].to_pylist() == list(range(5))


@pytest.mark.parametrize("delay_s", [0.0, 0.004, 0.01, 0.02])
def test_a_killed_writer_leaves_whole_partitions_only(tmp_path, delay_s):
    finished = int(kill_after(3, delay_s, COMMITS_FOREVER, tmp_path)[-1])
    TrajectoryWriter(tmp_path)
    partitions = sorted(os.listdir(tmp_path))
    assert len(partitions) > finished
    attempts = [(m, *task) for m in range(len(partitions)) for task in [(0, 0, 5000), (1, 0, 50)]]
    table = read_trajectories(tmp_path)
    assert table.num_rows == 5050 * len(partitions)
    assert_holds(table, *attempts)


def test_a_file_that_cannot_grow_is_one_line_and_no_partition(tmp_path):
    _, errors = start(COMMITS_WITH_SMALL_FILES_ONLY, tmp_path).communicate()
    last = errors.splitlines()[-1]
    assert f"trajectories in {tmp_path}: cannot be written: " in last
    assert "File too large" in last
    assert last.startswith(f"{RunFailedError.__module__}.RunFailedError")
    assert os.listdir(tmp_path) == []
