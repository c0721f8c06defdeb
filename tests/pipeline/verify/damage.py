"""Ways to damage a run's files, and what verify says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.journal import FILE_SCHEMA
from pipeline.verify import verify_run


def problems(run):
    """All problems but those of MLflow, which is not asked."""
    return verify_run(run, mlflow_timeout_s=0).report.problems


def assert_named(run, *words):
    """The problems name all of `words`; each is one line."""
    found = problems(run)
    assert found
    assert all("\n" not in line and len(line) <= 500 for line in found)
    for word in words:
        assert any(word in line for line in found), (word, found)


def flip(path: Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x55
    path.write_bytes(data)


def flip_values(path: Path) -> None:
    """Flip bits in the last value of a Parquet file's first column: its footer has no checksum."""
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    begin = column.dictionary_page_offset or column.data_page_offset
    end = begin + column.total_compressed_size
    flip(path, (end - 1) / (path.stat().st_size - 1))


def truncate(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def first_part(run, meta_step=1) -> Path:
    return run.trajectories / f"meta_step={meta_step:06d}" / "part-00000.parquet"


def rewrite(path: Path, change) -> None:
    """Put what `change` makes of a file's rows (dicts) in its place, as sound Parquet."""
    rows = pq.read_table(path, partitioning=None).to_pylist()
    pq.write_table(pa.Table.from_pylist(change(rows), schema=FILE_SCHEMA), path)


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_lines(path: Path, change) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
