"""The bench of the control plane: every figure is measured, and the line is through the rows."""

from __future__ import annotations

import json

import pytest

from jobs.bench import control_plane
from tests.processes import start

ROW = {
    "workers", "shards", "parameters", "tasks", "tasks_per_s", "outer_step_ms", "mb_per_s",
}  # fmt: skip


MEASURE = """
import json
from jobs.bench import control_plane

control_plane.REPEATS, control_plane.STORE_BYTES = 1, 1 << 28
print(json.dumps(control_plane.run(workers=(2, 3), filters=(4, 16), shards=(1, 2))))
"""


@pytest.mark.ray
def test_every_row_is_measured():
    said, errors = start(MEASURE).communicate(timeout=200)
    assert said, errors
    figures = json.loads(said.splitlines()[-1])
    rows = figures["rows"]
    assert [row["workers"] for row in rows] == [2, 3, 2, 2, 2, 2]
    assert [row["shards"] for row in rows] == [1, 1, 1, 2, 1, 2]
    for row in rows:
        assert row.keys() == ROW
        assert min(row.values()) > 0
    assert rows[2]["parameters"] == rows[3]["parameters"] < rows[4]["parameters"]
    assert figures["memory_mb_per_s"] > 0
    assert figures["task_ms"] > 0


def row(parameters, outer_step_ms, tasks=4):
    return {"parameters": parameters, "outer_step_ms": outer_step_ms, "tasks": tasks}


def test_the_line_takes_the_quickest_number_of_shards_and_says_how_far_off_it_is():
    few = [row(1_000, 64.0, 32), row(1_000, 128.0, 32), row(1_000, 96.0, 32)]
    many = [row(250_000, 12.0), row(250_000, 99.0), row(2_500_000, 30.0), row(25_000_000, 210.0)]
    found = control_plane.fitted(few, many)
    assert found["task_ms"] == pytest.approx(3.0)
    assert found["ms_per_mb_of_parameters"] == pytest.approx(2.0)  # 198 ms for 99 MB
    assert found["fixed_ms"] == pytest.approx(10.0)
    assert found["worst_misfit"] == pytest.approx(0.0)
    many[2] = row(2_500_000, 60.0)
    assert control_plane.fitted(few, many)["worst_misfit"] == pytest.approx(0.5)
    assert control_plane.fitted(few, many[:1]) == {"task_ms": found["task_ms"]}
