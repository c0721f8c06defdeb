"""Records: what a run puts on record, packed into few objects, each byte once."""

from __future__ import annotations

import random

import pytest

from pipeline.copy_manifest import Marks, Record
from pipeline.copy_records import (
    LOG,
    METRICS,
    first_to_pack,
    marks_of,
    packed,
    parts_between,
    unpack,
)


def grow(run, step: int, rng: random.Random) -> None:
    """Let the run take an outer step, and its last line be torn."""
    partition = run / "trajectories" / f"meta_step={step:06d}"
    partition.mkdir(parents=True)
    for number in range(rng.randrange(3)):
        (partition / f"part-{number:05d}.parquet").write_bytes(rng.randbytes(rng.randrange(5000)))
    for path in (LOG, METRICS):
        (run / path).parent.mkdir(exist_ok=True)
        with (run / path).open("ab") as file:
            file.write(b"\n" * rng.randrange(2) + b"line " * rng.randrange(2000))


@pytest.mark.parametrize("seed", range(5))
def test_records_that_follow_on_each_other_make_the_run_again(seed, tmp_path):
    rng = random.Random(seed)
    run, again = tmp_path / "run", tmp_path / "again"
    records: list[tuple[Record, bytes]] = []
    copied = 0
    for step in range(60):
        grow(run, step, rng)
        until = marks_of(run, step + 1)
        here = records[-1][0].last if records else Marks()
        more = sum(part.size for part in parts_between(run, here, until))
        del records[first_to_pack([record for record, _ in records], more) :]
        here = records[-1][0].last if records else Marks()
        data = b"".join(packed(run, parts_between(run, here, until)))
        records.append((Record(here, until, len(data), ""), data))
        copied += len(data)
    assert len(records) <= 10
    assert copied < 8 * sum(len(data) for _, data in records)
    for _, data in records:
        unpack(iter([data[:7], data[7:]]), again)
    for path in (run / "trajectories").rglob("*.parquet"):
        assert (again / path.relative_to(run)).read_bytes() == path.read_bytes()
    for path in (LOG, METRICS):
        content = (run / path).read_bytes()
        assert (again / path).read_bytes() == content[: content.rfind(b"\n") + 1]


def test_large_records_are_left_as_they_are():
    large = Record(Marks(), Marks(1), 20 << 20, "")
    assert first_to_pack([large], 15 << 20) == 1
    assert first_to_pack([large, Record(Marks(1), Marks(2), 100, "")], 80) == 1
    assert first_to_pack([], 0) == 0


def test_no_line_at_all_is_nothing_to_copy(tmp_path):
    (tmp_path / LOG).write_bytes(b"torn")
    assert marks_of(tmp_path, 0) == Marks()
    (tmp_path / LOG).write_bytes(b"x" * 200_000 + b"\n" + b"y" * 200_000)
    assert marks_of(tmp_path, 0) == Marks(log=200_001)


def test_a_file_that_became_shorter_is_no_record(tmp_path):
    (tmp_path / LOG).write_bytes(b"line\n")
    parts = parts_between(tmp_path, Marks(), Marks(log=9))
    with pytest.raises(OSError, match="shorter"):
        list(packed(tmp_path, parts))
