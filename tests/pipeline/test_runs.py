"""Run folders: made whole, found by id or path, never outside the home."""

import fcntl
import json
import math
import os
import time
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.config import build_experiment
from pipeline.errors import BadInputError
from pipeline.fetch_run import find_run
from pipeline.progress import SilentProgress
from pipeline.run_list import overview
from pipeline.runs import RunFolder, check_home, home, json_text, list_runs

EXPERIMENT = build_experiment({"name": "trial", "seed": 3}, "test")


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)


def test_home_is_runs_in_the_present_folder_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("OUTERLOOP_HOME")
    assert home() == tmp_path / "runs"


def test_new_run_is_whole_and_gives_its_experiment_back():
    run = RunFolder.create(EXPERIMENT)
    assert run.path.parent == home()
    assert run.run_id.startswith("trial-")
    for folder in (run.checkpoints, run.trajectories, run.evaluation, run.plots):
        assert folder.is_dir()
    assert run.log.is_file()
    assert run.read_experiment() == EXPERIMENT
    assert os.listdir(home()) == [run.run_id]


def test_two_runs_of_one_second_have_folders_of_their_own():
    assert len({RunFolder.create(EXPERIMENT).path for _ in range(10)}) == 10


def test_run_is_found_by_id_by_beginning_and_by_path():
    run = RunFolder.create(EXPERIMENT)
    other = RunFolder.create(build_experiment({"name": "other"}, "test"))
    assert RunFolder.open(run.run_id) == RunFolder.open("tri") == run
    assert RunFolder.open(str(run.path)) == RunFolder.open(f"runs/{run.run_id}") == run
    assert RunFolder.open("o") == other


def test_runs_are_listed_newest_first_and_nothing_else_is():
    first, second = RunFolder.create(EXPERIMENT), RunFolder.create(EXPERIMENT)
    os.utime(first.config, ns=(1, 1))
    (home() / "stray").mkdir()
    (home() / "mlflow.db").touch()
    assert list_runs() == [second.run_id, first.run_id]


def test_a_run_is_listed_under_the_time_it_was_made_though_it_was_resumed_since(monkeypatch):
    monkeypatch.setenv("TZ", "UTC-2")  # two hours ahead
    time.tzset()
    older, newer = "trial-20240229-235959-0a1b2c", "trial-20240301-120000-ffffff"
    for run_id in (newer, older):  # the older one's configuration is written last
        RunFolder.create(EXPERIMENT).path.rename(home() / run_id)
        (home() / run_id / "config.yaml").touch()
    try:
        assert [(row.run_id, row.begun) for row in overview()] == [
            (newer, "2024-03-01 14:00"),
            (older, "2024-03-01 01:59"),
        ]
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("name", ["renamed", "trial-20249999-999999-0a1b2c"])
def test_a_run_whose_name_says_no_time_is_as_old_as_its_configuration(name):
    run = RunFolder(RunFolder.create(EXPERIMENT).path.rename(home() / name))
    os.utime(run.config, (86400 * 366, 86400 * 366))
    assert run.made().timestamp() == 86400 * 366


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("absent", "unknown run 'absent'"),
        ("", "unknown run ''"),
        ("../elsewhere", "unknown run"),
        ("x" * 5000, "unknown run"),
        ("nul\0", "unknown run"),
        ("runs", "is no run"),
        ("file", "is a file"),
        ("trial", "ambiguous"),
    ],
)
def test_what_names_no_run_is_refused_in_one_line(text, said, tmp_path):
    RunFolder.create(EXPERIMENT)
    RunFolder.create(EXPERIMENT)
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match=said) as caught:
        RunFolder.open(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "folder", "pipe"])
def test_a_run_without_its_configuration_is_told_as_that_and_not_taken_for_another(damage):
    run, _ = RunFolder.create(EXPERIMENT), RunFolder.create(EXPERIMENT)
    run.config.unlink()
    if damage == "folder":
        run.config.mkdir()
    if damage == "pipe":
        os.mkfifo(run.config)
    problem = "is missing" if damage == "missing" else "is no file"
    for text in (run.run_id, str(run.path)):
        with pytest.raises(BadInputError, match=rf"config\.yaml: {problem}; put it back"):
            RunFolder.open(text)
        assert RunFolder.open(text, may_be_damaged=True) == run
    with pytest.raises(BadInputError, match=rf"config\.yaml: {problem}; put it back"):
        find_run(run.run_id, "", SilentProgress())


def test_misspelt_run_is_answered_with_the_nearest():
    run = RunFolder.create(EXPERIMENT)
    with pytest.raises(BadInputError, match=f"did you mean '{run.run_id}'"):
        RunFolder.open(run.run_id.replace("trial", "trail"))


def test_home_that_cannot_be_written_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for impossible in (tmp_path / "file" / "runs", Path("/proc/outerloop")):
        monkeypatch.setenv("OUTERLOOP_HOME", str(impossible))
        with pytest.raises(BadInputError, match="set OUTERLOOP_HOME"):
            RunFolder.create(EXPERIMENT)
    assert os.listdir(tmp_path) == ["file"]


def test_failure_half_way_leaves_no_folder(monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.runs.write_atomic", full)
    with pytest.raises(BadInputError, match="No space left"):
        RunFolder.create(EXPERIMENT)
    assert os.listdir(home()) == []


def test_name_cannot_leave_the_home():
    escaping = EXPERIMENT.model_copy(update={"name": "../../outside"})
    with pytest.raises(BadInputError, match=r"run id '\.\./\.\./outside-"):
        RunFolder.create(escaping)
    with pytest.raises(BadInputError, match="name"):
        build_experiment({"name": "../outside"}, "test")


def test_summary_comes_back_and_is_standard_json():
    run = RunFolder.create(EXPERIMENT)
    assert run.read_summary() == {}
    run.write_summary({"final": {"auc": math.nan}, "counts": {"tasks": 3}})
    assert run.read_summary() == {"final": {"auc": None}, "counts": {"tasks": 3}}
    assert "NaN" not in run.summary.read_text()


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_damaged_summary_is_refused(content):
    run = RunFolder.create(EXPERIMENT)
    run.summary.write_bytes(content)
    with pytest.raises(BadInputError, match=r"summary\.json"):
        run.read_summary()


def test_json_has_null_for_what_json_has_not():
    text = json_text({"a": [math.inf, 1.5, (math.nan,)], 2: Path("x")})
    assert json.loads(text) == {"a": [None, 1.5, [None]], "2": "x"}


def test_a_run_is_for_one_process_at_a_time():
    run = RunFolder.create(EXPERIMENT)
    with (
        run.locked(),
        pytest.raises(BadInputError, match=rf"in use by process {os.getpid()} on "),
        run.locked(),
    ):
        pass
    with run.locked():  # and then it is free again
        pass


def test_what_a_dead_process_left_half_written_goes_when_a_run_is_gone_on_with():
    run = RunFolder.create(EXPERIMENT)
    left = run.path / ".tmp-summary.json-123"
    left.write_text("{")
    with run.locked():
        assert not left.exists()


def test_a_lock_that_a_listing_holds_for_a_moment_is_waited_for(monkeypatch):
    run = RunFolder.create(EXPERIMENT)
    (run.path / ".lock").touch()
    listing = (run.path / ".lock").open("rb")
    fcntl.flock(listing, fcntl.LOCK_SH)
    monkeypatch.setattr("pipeline.locks.time.sleep", lambda _: listing.close())
    with run.locked():
        assert listing.closed


BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghijkl")
)
DAMAGED = {
    "counts of a summary": ("summary.json", '{"counts": 3}'),
    "summary": ("summary.json", "{"),
    "an infinite number of steps": ("config.yaml", "meta: {num_steps: .inf}"),
    "text for a section": ("config.yaml", "algorithm: leap\nname: trial\nmeta: {num_steps: 3}"),
    "a tree of billions": ("config.yaml", f"{BOMB}name: *l\nmeta: {{num_steps: 3}}"),
    "nothing": ("config.yaml", ""),
}


@pytest.mark.parametrize(("name", "content"), DAMAGED.values(), ids=list(DAMAGED))
def test_a_run_with_a_damaged_file_is_listed_as_such_among_the_others(name, content):
    whole, damaged = RunFolder.create(EXPERIMENT), RunFolder.create(EXPERIMENT)
    (damaged.path / name).write_text(content)
    states = {row.run_id: row.state for row in overview()}
    assert states == {whole.run_id: "unfinished", damaged.run_id: "damaged"}


def test_bad_input_is_a_value_error_and_the_reason_is_kept(monkeypatch):
    run = RunFolder.create(EXPERIMENT)
    run.write_summary({"final": {}})
    monkeypatch.setattr("pipeline.runs.MAX_SUMMARY_BYTES", 3)
    with pytest.raises(ValueError, match=r"summary\.json: larger than 3 bytes") as caught:
        run.read_summary()
    assert isinstance(caught.value, BadInputError)


def test_a_run_with_a_damaged_configuration_says_how_many_steps_are_kept():
    run = RunFolder.create(EXPERIMENT)
    run.config.write_text("meta: [")
    (run.checkpoints / "step-000004").mkdir()
    (row,) = overview()
    assert (row.outer_steps, row.num_outer_steps) == (4, None)


def test_only_a_lock_that_is_held_means_running(monkeypatch):
    run = RunFolder.create(EXPERIMENT)
    with run.locked():
        assert overview()[0].state == "running"
    (run.path / ".lock").unlink()
    (run.path / ".lock").mkdir()  # an OSError, and no sign of a process
    assert overview()[0].state == "unfinished"


def test_a_home_that_cannot_be_written_is_found_before_anything_is_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "file" / "runs"))
    with pytest.raises(BadInputError, match="set OUTERLOOP_HOME"):
        check_home()
