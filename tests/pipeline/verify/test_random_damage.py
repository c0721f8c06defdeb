"""Whatever bytes a run's files hold: verify ends, in lines, and finds what is vouched for."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.runs import RunFolder
from pipeline.verify import verify_run
from tests.pipeline.runs_for_tests import tiny
from tests.pipeline.verify.conftest import FINE, dies_after

# Of these a checksum is kept of every byte.
VOUCHED = ("manifest.json", "shard-", "state-", "rows-", "curves.parquet", "summary.parquet")
KINDS = ("finished", "in flight")


@pytest.fixture(scope="module")
def whole(home, runs):
    """A run that is finished, and one in the middle of tasks."""
    inner = {"num_steps": 8, "segment_steps": 2, "checkpoint_every": 2}
    return {"finished": runs("sync"), "in flight": dies_after(14, tiny(inner=inner, **FINE))}


def files(run):
    left_out = ("plots", "log.txt", ".lock")
    found = (path.relative_to(run.path) for path in sorted(run.path.rglob("*")))
    return [p for p in found if (run.path / p).is_file() and p.parts[0] not in left_out]


def holds(path: Path):
    """What a reader gets from a Parquet file; None if that is nothing."""
    try:
        return pq.read_table(path, partitioning=None)
    except (OSError, ValueError, pa.ArrowException):
        return None


damages = st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 1), st.integers(1, 255)),
    st.tuples(st.just("truncate"), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("random"), st.floats(0, 1), st.integers(0, 2**32)),
)


def damaged(data: bytes, damage) -> bytes:
    kind, place, value = damage
    at = min(int(place * len(data)), len(data) - 1)
    if kind == "truncate":
        return data[:at]
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ value]) + data[at + 1 :]
    return data[:at] + (value.to_bytes(8, "little") * 3)[: len(data) - at] + data[at + 24 :]


@settings(deadline=None, max_examples=300)
@given(kind=st.sampled_from(KINDS), number=st.integers(0, 200), damage=damages)
def test_any_damage_is_told_in_lines_and_that_of_data_is_found(whole, kind, number, damage):
    run = whole[kind]
    names = files(run)
    name = names[number % len(names)]
    with tempfile.TemporaryDirectory() as folder:
        copy = RunFolder(Path(folder) / run.run_id)
        shutil.copytree(run.path, copy.path)
        data = (copy.path / name).read_bytes()
        if not data:
            return
        before = holds(copy.path / name) if name.suffix == ".parquet" else None
        changed = damaged(data, damage)
        (copy.path / name).write_bytes(changed)
        found = verify_run(copy, mlflow_timeout_s=0).report
        lines = found.problems + found.notes + found.not_checked
        assert all(line.isprintable() and len(line) <= 500 for line in lines)
        if changed == data:
            assert found.problems == []
        elif name.name.startswith(VOUCHED):
            assert found.problems != []
        elif name.suffix == ".parquet":
            after = holds(copy.path / name)
            assert found.problems != [] or (after is not None and after.equals(before))
