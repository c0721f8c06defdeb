import os

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RunFailedError
from pipeline.journal import MAX_BUFFERED_ROWS, TaskJournal
from pipeline.messages import TRAJECTORY_SCHEMA
from pipeline.trajectories import ROW_GROUP, TrajectoryWriter, read_trajectories
from tests.processes import kill_after, start

LONG = MAX_BUFFERED_ROWS + 17

COMMITS_FOREVER = """
import shutil, sys, pathlib
from pipeline.journal import MAX_BUFFERED_ROWS
from pipeline.trajectories import TrajectoryWriter
from tests.pipeline.test_trajectories import journal
folder = pathlib.Path(sys.argv[1])
writer = TrajectoryWriter(folder / "trajectories")
meta_step = 0
while True:
    long = journal(folder / "long", meta_step, 0, MAX_BUFFERED_ROWS + 5)
    writer.commit(meta_step, [long, journal(folder / "short", meta_step, 1, 50)])
    shutil.rmtree(long.folder)
    print(meta_step, flush=True)
    meta_step += 1
"""

COMMITS_WITH_SMALL_FILES_ONLY = """
import resource, sys, pathlib
from pipeline.trajectories import TrajectoryWriter
from tests.pipeline.test_trajectories import journal
folder = pathlib.Path(sys.argv[1])
writer = TrajectoryWriter(folder)
task = journal(folder / "task", 1, 0, 4000)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
writer.commit(1, [task])
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


def journal(folder, meta_step, task, num_steps, segment=1000, attempt=0):
    """The rows of a task, as its segments bring them."""
    one = TaskJournal(folder)
    for first in range(0, num_steps, segment):
        one.add(rows(meta_step, task, attempt, first, min(segment, num_steps - first)))
    return one


def assert_holds(table, *attempts):
    """The table is, in this order, all steps of each (meta_step, task, attempt, num_steps)."""
    assert table.schema == TRAJECTORY_SCHEMA
    expected = pa.Table.from_batches(
        [rows(meta_step, task, attempt, 0, n) for meta_step, task, attempt, n in attempts],
        TRAJECTORY_SCHEMA,
    )
    assert table.equals(expected)


@pytest.mark.parametrize("num_steps", [10, LONG])
def test_rows_are_written_in_the_order_of_tasks_and_steps(tmp_path, num_steps):
    writer = TrajectoryWriter(tmp_path / "trajectories")
    sizes = [30, num_steps, 20, num_steps, 5]
    tasks = [journal(tmp_path / f"task-{i}", 4, i, size) for i, size in enumerate(sizes)]
    writer.commit(4, tasks)
    assert_holds(
        read_trajectories(tmp_path / "trajectories"),
        *((4, task, 0, size) for task, size in enumerate(sizes)),
    )
    assert os.listdir(tmp_path / "trajectories") == ["meta_step=000004"]


def test_a_long_task_has_a_file_of_its_own_in_row_groups_by_step(tmp_path):
    writer = TrajectoryWriter(tmp_path / "trajectories")
    num_steps = 2 * ROW_GROUP + 9
    tasks = [journal(tmp_path / "a", 0, 0, 50), journal(tmp_path / "b", 0, 1, num_steps)]
    writer.commit(0, tasks)
    short, long = sorted((tmp_path / "trajectories" / "meta_step=000000").iterdir())
    assert pq.read_metadata(short).num_rows == 50
    metadata = pq.read_metadata(long)
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert sizes == [ROW_GROUP, ROW_GROUP, 9]
    step = TRAJECTORY_SCHEMA.remove(0).get_field_index("step")
    assert metadata.row_group(1).column(step).statistics.min == ROW_GROUP


def test_a_step_taken_again_replaces_its_partition(tmp_path):
    writer = TrajectoryWriter(tmp_path / "trajectories")
    for num_steps in (LONG, 12):
        writer.commit(1, [journal(tmp_path / f"task-{num_steps}", 1, 0, num_steps)])
    assert_holds(read_trajectories(tmp_path / "trajectories"), (1, 0, 0, 12))


def test_a_step_without_rows_has_an_empty_partition(tmp_path):
    writer = TrajectoryWriter(tmp_path / "trajectories")
    writer.commit(0, [])
    writer.commit(1, [TaskJournal(tmp_path / "task")])
    assert_holds(read_trajectories(tmp_path / "trajectories"))
    assert len(os.listdir(tmp_path / "trajectories")) == 2


def test_partitions_of_steps_that_are_taken_again_go_first(tmp_path):
    writer = TrajectoryWriter(tmp_path / "trajectories")
    for meta_step in range(4):
        writer.commit(meta_step, [journal(tmp_path / "task", meta_step, 0, 5)])
    writer.remove_from(2)
    assert sorted(os.listdir(tmp_path / "trajectories")) == ["meta_step=000000", "meta_step=000001"]


def test_reading_chooses_columns_and_partitions(tmp_path):
    writer = TrajectoryWriter(tmp_path / "trajectories")
    for meta_step in range(12):
        writer.commit(meta_step, [journal(tmp_path / "task", meta_step, 0, 5)])
    everything = read_trajectories(tmp_path / "trajectories")
    assert everything["meta_step"].to_pylist() == [m for m in range(12) for _ in range(5)]
    some = read_trajectories(
        tmp_path / "trajectories", ["meta_step", "step"], ds.field("meta_step") >= 10
    )
    assert some.to_pydict() == {"meta_step": [10] * 5 + [11] * 5, "step": list(range(5)) * 2}


def test_a_run_without_trajectories_has_no_rows(tmp_path):
    assert_holds(read_trajectories(tmp_path / "missing"))
    assert read_trajectories(tmp_path / "missing", ["loss"]).column_names == ["loss"]


def test_a_partition_is_plain_parquet_that_other_tools_read(tmp_path):
    TrajectoryWriter(tmp_path / "t").commit(3, [journal(tmp_path / "task", 3, 0, 5)])
    part = tmp_path / "t" / "meta_step=000003" / "part-00000.parquet"
    assert pq.read_table(part, partitioning=None)["step"].to_pylist() == list(range(5))


@pytest.mark.parametrize("delay_s", [0.0, 0.004, 0.01, 0.02])
def test_a_killed_writer_leaves_whole_partitions_only(tmp_path, delay_s):
    finished = int(kill_after(3, delay_s, COMMITS_FOREVER, tmp_path)[-1])
    TrajectoryWriter(tmp_path / "trajectories")
    partitions = sorted(os.listdir(tmp_path / "trajectories"))
    assert len(partitions) > finished
    long = MAX_BUFFERED_ROWS + 5
    attempts = [(m, *task) for m in range(len(partitions)) for task in [(0, 0, long), (1, 0, 50)]]
    table = read_trajectories(tmp_path / "trajectories")
    assert table.num_rows == (long + 50) * len(partitions)
    assert_holds(table, *attempts)


def test_a_file_that_cannot_grow_is_one_line_and_no_partition(tmp_path):
    _, errors = start(COMMITS_WITH_SMALL_FILES_ONLY, tmp_path).communicate()
    last = errors.splitlines()[-1]
    assert f"trajectories in {tmp_path}: cannot be written: " in last
    assert "File too large" in last
    assert last.startswith(f"{RunFailedError.__module__}.RunFailedError")
    assert os.listdir(tmp_path) == []
