"""The rows of a task under way: none lost, none twice, whatever attempts they came from."""

from __future__ import annotations

import logging

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RunFailedError
from pipeline.journal import FILE_SCHEMA, MAX_BUFFERED_ROWS, Journals, TaskJournal
from pipeline.messages import TaskSpec
from pipeline.task_states import write_state
from tests.pipeline.test_trajectories import rows
from tests.processes import kill_after

WRITES_FOREVER = """
import sys, pathlib
from pipeline.journal import TaskJournal
from tests.pipeline.test_trajectories import rows
journal = TaskJournal(pathlib.Path(sys.argv[1]))
while True:
    journal.add(rows(0, 0, 0, journal.num_rows, 40))
    journal.sync()
    print(journal.num_rows, flush=True)
"""


def add(journal: TaskJournal, num_rows: int, attempt: int = 0) -> None:
    journal.add(rows(0, 0, attempt, journal.num_rows, num_rows))


def steps(journal: TaskJournal) -> list[int]:
    return journal.table()["step"].to_pylist()


def spec(index: int = 0, **fields) -> TaskSpec:
    place = {"meta_step": 0, "split": "train", "version": 0}
    return TaskSpec(index=index, task_id=index, **(place | fields))


@settings(deadline=None, max_examples=60)
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["add", "sync", "rewind", "reopen"]), st.integers(0, 70)),
        max_size=12,
    )
)
def test_rows_are_those_of_a_plain_list_whatever_is_done(tmp_path_factory, moves):
    folder = tmp_path_factory.mktemp("journal") / "task"
    journal = TaskJournal(folder)
    held: list[int] = []  # attempt of each row
    synced = 0
    for attempt, (move, number) in enumerate(moves):
        if move == "add":
            add(journal, number, attempt)
            held += [attempt] * number
        elif move == "sync":
            journal.sync()
            synced = len(held)
        elif move == "rewind":
            journal.rewind(number)
            held = held[:number]
            synced = min(synced, number)
        else:  # the driver was killed: what it had in memory is gone
            journal = TaskJournal.open(folder)
            held = held[:synced]
        assert journal.num_rows == len(held)
    assert journal.table()["attempt"].to_pylist() == held
    assert steps(journal) == list(range(len(held)))
    batches = list(journal.batches(7))
    assert [batch.num_rows for batch in batches[:-1]] == [7] * max(0, len(batches) - 1)
    assert pa.Table.from_batches(batches, FILE_SCHEMA).equals(journal.table().combine_chunks())


def test_memory_does_not_grow_with_the_trajectory(tmp_path):
    journal = TaskJournal(tmp_path / "task")
    for _ in range(8 * MAX_BUFFERED_ROWS // 512):
        add(journal, 512)
    before = pa.total_allocated_bytes()
    for _ in range(24 * MAX_BUFFERED_ROWS // 512):
        add(journal, 512)
    assert pa.total_allocated_bytes() - before < 100 * MAX_BUFFERED_ROWS
    assert journal.num_rows == 32 * MAX_BUFFERED_ROWS


def test_rows_of_a_killed_driver_are_there_up_to_what_it_was_told_to_keep(tmp_path):
    told = int(kill_after(5, 0.003, WRITES_FOREVER, tmp_path / "task")[-1])
    journal = TaskJournal.open(tmp_path / "task")
    assert journal.num_rows >= told
    assert steps(journal) == list(range(journal.num_rows))


def test_a_torn_file_of_rows_ends_what_is_there(tmp_path, caplog):
    journal = TaskJournal(tmp_path / "task")
    for _ in range(3):
        add(journal, 10)
        journal.sync()
    _, second, _ = sorted((tmp_path / "task").iterdir())
    second.write_bytes(second.read_bytes()[:-20])
    assert TaskJournal.open(tmp_path / "task").num_rows == 10
    assert "is damaged" in caplog.text
    assert len(list((tmp_path / "task").iterdir())) == 1  # the third would follow other rows


def test_a_damaged_page_of_rows_is_found_before_it_is_needed(tmp_path, caplog):
    journal = TaskJournal(tmp_path / "task")
    add(journal, 500)
    journal.sync()
    (path,) = (tmp_path / "task").iterdir()
    data = bytearray(path.read_bytes())
    data[40:90] = bytes(50)
    path.write_bytes(bytes(data))
    assert TaskJournal.open(tmp_path / "task").num_rows == 0
    assert "is damaged" in caplog.text


def test_a_checkpoint_is_used_only_if_all_rows_before_it_are_there(tmp_path):
    journal = TaskJournal(tmp_path / "task")
    for step in (10, 20):
        write_state(journal.folder, step, {"version": 3, "values": torch.ones(2)})
    assert journal.resume_point() is None
    add(journal, 15)
    assert journal.resume_point() == (10, 3)
    add(journal, 5)
    assert journal.resume_point() == (20, 3)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path, caplog):
    journal = TaskJournal(tmp_path / "task")
    add(journal, 30)
    for step in (10, 20):
        write_state(journal.folder, step, {"version": 0, "values": torch.ones(2)})
    newest = max(journal.folder.glob("state-*"))
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    with caplog.at_level(logging.WARNING):
        assert journal.resume_point() == (10, 0)
    assert "after 20 inner steps" in caplog.text
    assert "wrong checksum" in caplog.text


def test_journals_of_tasks_that_are_not_wanted_any_more_go(tmp_path):
    journals = Journals(tmp_path, test="-a")
    for one in (spec(0), spec(1), spec(0, meta_step=1), spec(0, purpose="evaluate", method="leap")):
        add(journals.of(one), 5)
        journals.of(one).sync()
    Journals(tmp_path).prune(lambda key: key == (0, 1))
    assert len(list(tmp_path.iterdir())) == 2
    journals.prune_tests([spec(0, purpose="evaluate", method="leap")])
    assert len(list(tmp_path.iterdir())) == 2
    other = Journals(tmp_path, test="-b")
    other.prune_tests([spec(0, purpose="evaluate", method="leap")])
    assert len(list(tmp_path.iterdir())) == 2  # may be gone on with: the parameters are the same
    other.remove_tests()
    assert len(list(tmp_path.iterdir())) == 2
    other.prune_tests([spec(0, purpose="evaluate", method="leap", version=7)])
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000-task-000001"]


def test_journals_of_a_meta_test_go_once_it_is_on_record(tmp_path):
    journals = Journals(tmp_path, test="1234abcd")
    for split in ("val", "test"):
        one = spec(0, purpose="evaluate", method="leap", split=split)
        add(journals.of(one), 5)
        journals.of(one).sync()
    add(journals.of(spec(0)), 5)
    journals.of(spec(0)).sync()
    journals.remove_tests()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000-task-000000"]


def test_rows_of_another_schema_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not in TRAJECTORY_SCHEMA"):
        TaskJournal(tmp_path).add(pa.record_batch({"loss": [1.0]}))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    journal = TaskJournal(tmp_path / "file" / "task")
    add(journal, 5)
    with pytest.raises(RunFailedError, match=r"rows of a task in .* cannot be written"):
        journal.sync()


def test_rows_whose_bytes_are_not_those_of_their_name_are_taken_again(tmp_path, caplog):
    journal = TaskJournal(tmp_path)
    for _ in range(2):
        add(journal, 3)
        journal.sync()
    first, second = sorted(tmp_path.glob("rows-*"))
    data = bytearray(second.read_bytes())
    at = data.rindex(b"ARROW:schema")  # in the footer, where no page's checksum is
    data[at] ^= 1
    second.write_bytes(data)
    assert steps(TaskJournal.open(tmp_path)) == [0, 1, 2]
    assert "wrong checksum" in caplog.text
    assert [path.name for path in tmp_path.glob("rows-*")] == [first.name]


def test_rows_of_before_their_names_had_a_checksum_are_gone_on_with(tmp_path):
    journal = TaskJournal(tmp_path)
    add(journal, 3)
    journal.sync()
    (path,) = tmp_path.glob("rows-*")
    path.rename(tmp_path / "rows-000000000000-000000000003.parquet")
    again = TaskJournal.open(tmp_path)
    add(again, 2)
    again.sync()
    assert steps(TaskJournal.open(tmp_path)) == [0, 1, 2, 3, 4]
