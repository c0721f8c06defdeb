"""Each kind of damage is named, in a line that says where."""

from __future__ import annotations

import json
import os
import shutil
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.checkpoint import CheckpointStore
from pipeline.verify import verify_run
from tests.pipeline.environments_for_tests import control
from tests.pipeline.runs_for_tests import tiny
from tests.pipeline.verify.conftest import FINE, dies_after, trained
from tests.pipeline.verify.damage import (
    assert_named,
    edit_json,
    edit_lines,
    first_part,
    flip,
    flip_values,
    problems,
    rewrite,
    truncate,
)


@pytest.fixture
def run(runs, copy):
    return copy(runs("sync"))


FILES = {
    "checkpoints/step-000004/shard-000000000000.safetensors": "shard-000000000000.safetensors",
    "checkpoints/step-000003/manifest.json": "checkpoints/step-000003: manifest.json",
    "trajectories/meta_step=000002/part-00000.parquet": "meta_step=000002/part-00000.parquet",
    "evaluation/curves.parquet": "evaluation/curves.parquet",
    "evaluation/summary.parquet": "evaluation/summary.parquet",
}
TEXTS = {
    "config.yaml": "config.yaml",
    "summary.json": "summary.json",
    "tracking/metrics.jsonl": "tracking/metrics.jsonl",
    "tracking/target.json": "tracking/target.json",
    "tracking/delivered.json": "tracking/delivered.json",
}


@pytest.mark.parametrize("damage", [flip, truncate])
@pytest.mark.parametrize(("name", "said"), FILES.items())
def test_damaged_file_is_named(run, name, said, damage):
    damage(run.path / name)
    assert_named(run, said)


@pytest.mark.parametrize(("name", "said"), TEXTS.items())
def test_text_that_is_cut_off_is_named(run, name, said):
    if name != "config.yaml":
        truncate(run.path / name)
    else:  # between two sections: still an experiment, but not that of the rows
        whole, found, _ = run.config.read_bytes().partition(b"\nouter:")
        assert found
        run.config.write_bytes(whole + b"\n")
        assert "config.yaml: not as this version writes it" in verify_run(run, 0).report.notes[0]
        said = ""
    assert_named(run, said)


@pytest.mark.parametrize(("name", "said"), (FILES | TEXTS).items())
@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b"\xff" * 4096])
def test_file_of_other_content_is_named(run, name, said, content):
    (run.path / name).write_bytes(content)
    if (name, content) in {("tracking/metrics.jsonl", b""), ("config.yaml", b"{}")}:
        said = ""  # which is what is missing in the one, and a sound one of another experiment
    assert_named(run, said)


@pytest.mark.parametrize("name", [*FILES, *TEXTS])
def test_what_is_no_file_is_not_waited_for(run, name):
    (run.path / name).unlink()
    os.mkfifo(run.path / name)
    assert problems(run) != []


ROWS = {
    "a row twice": (lambda rows: rows[:5] + rows[4:], "inner step 4 is there twice"),
    "a row missing": (lambda rows: rows[:4] + rows[5:], "inner steps 4 to 4 are missing"),
    "a task twice": (lambda rows: rows + rows[:9], "task 0: is there twice"),
    "the first row missing": (lambda rows: rows[1:], "begins at inner step 1"),
    "a task cut short": (lambda rows: rows[:-2], "1 tasks are cut short"),
    "a task missing": (lambda rows: rows[:9], "1 have no rows"),
    "one more inner step": (
        lambda rows: [*rows, rows[-1] | {"step": 9}],
        "has 10 inner steps, where a task has 9",
    ),
    "one more task": (
        lambda rows: rows + [row | {"task": 2} for row in rows[:9]],
        "3 tasks, where 2 make an outer step",
    ),
    "another loss": (
        lambda rows: [rows[0] | {"loss": 7.0}, *rows[1:]],
        "; so does train/loss_first",
    ),
    "a loss that is not finite": (
        lambda rows: [*rows[:-1], rows[-1] | {"loss": float("nan")}],
        "1 tasks are cut short or not finite",
    ),
    "another path": (
        lambda rows: [row | {"path_length": 2 * row["path_length"]} for row in rows],
        "train/path_length differs",
    ),
    "no loss": (lambda rows: [rows[0] | {"loss": None}, *rows[1:]], "column loss"),
    "no rows": (lambda rows: [], "have no rows"),
}


@pytest.mark.parametrize(("change", "said"), ROWS.values(), ids=list(ROWS))
def test_rows_that_are_not_the_runs_are_named(run, change, said):
    rewrite(first_part(run), change)
    assert_named(run, said)


def test_partitions_that_are_not_the_runs_are_named(run):
    four = run.trajectories / "meta_step=000004"
    shutil.copytree(run.trajectories / "meta_step=000003", four)
    assert_named(run, "a partition of meta_step 4, but the run ended before it")
    shutil.rmtree(four)
    shutil.rmtree(run.trajectories / "meta_step=000001")
    shutil.rmtree(run.trajectories / "meta_step=000002")
    assert problems(run) == ["trajectories: no partition of meta_step 1-2"]
    (run.trajectories / "meta_step=000003" / "part-00000.parquet").unlink()
    assert_named(run, "trajectories/meta_step=000003: part 0 is missing")


def test_two_partitions_that_changed_places_are_named(run):
    one, other = first_part(run, 0), first_part(run, 1)
    one.rename(run.path / "aside")
    other.rename(one)
    (run.path / "aside").rename(other)
    assert_named(run, "train/loss differs from the trajectories at outer step 1 (logged ")


def test_metrics_that_differ_at_the_same_outer_steps_are_one_line(run):
    test_two_partitions_that_changed_places_are_named(run)
    (line,) = problems(run)
    also = "train/error, train/loss_first, train/loss_last, train/path_length"
    assert line.endswith(f"; so do {also}")
    assert " 2 (logged " in line


@pytest.mark.parametrize("what", ["missing", "empty", "no file", "cut off"])
def test_a_log_that_is_lost_is_one_line(runs, copy, what):
    run = copy(runs("sync"))
    if what == "empty":
        run.metrics.write_bytes(b"")
    elif what == "cut off":
        edit_lines(run.metrics, lambda lines: lines[: len(lines) // 2])
    else:
        run.metrics.unlink()
    if what == "no file":
        run.metrics.mkdir()
    (line,) = verify_run(run).report.problems
    said = "points are lost here that MLflow has" if what == "cut off" else f"jsonl: is {what}; "
    assert said in line


def test_an_outer_step_without_points_is_one_line(run):
    edit_lines(run.metrics, lambda lines: [line for line in lines if b'"step": 3' not in line])
    (run.path / "tracking" / "delivered.json").unlink()
    assert problems(run) == [
        "tracking/metrics.jsonl: outer/grad_norm and 6 more metrics: no point of outer step 3"
    ]


def test_a_file_of_other_columns_is_named(run):
    shutil.copy(run.evaluation / "curves.parquet", first_part(run))
    assert_named(run, "has other columns than a trajectory")


LINES = {
    "dropped": (
        lambda lines: [line for line in lines if not (b"step_norm" in line and b": 3" in line)],
        "outer/step_norm: no point of outer step 3",
    ),
    "of a figure that rows give": (
        lambda lines: [line for line in lines if b"train/error" not in line],
        "train/error differs from the trajectories at outer step 1 (no point",
    ),
    "twice": (lambda lines: lines[:3] + lines[2:], "step 1 is there twice"),
    "no point": (lambda lines: [*lines, b'{"key": 5}\n'], "no metric point in line"),
    "no text": (lambda lines: [*lines, b"\xff\n"], "no metric point in line"),
    "of endless length": (lambda lines: [*lines, b"5" * 10**6 + b"\n"], "no metric point in line"),
    "a step of a million digits": (
        lambda lines: [lines[0].replace(b'"step": 1', b'"step": 1' + b"0" * 6000), *lines[1:]],
        "no metric point in line 1",
    ),
    "not whole": (lambda lines: [*lines, lines[0][:20]], "its last line is not whole"),
    "of another value": (
        lambda lines: [line.replace(b'"value": ', b'"value": 1') for line in lines],
        "train/loss differs",
    ),
}


@pytest.mark.parametrize(("change", "said"), LINES.values(), ids=list(LINES))
def test_metric_lines_that_are_not_the_runs_are_named(run, change, said):
    edit_lines(run.metrics, change)
    assert_named(run, said)


def test_a_mark_of_what_was_sent_is_within_the_log(run):
    path = run.path / "tracking" / "delivered.json"
    edit_json(path, lambda mark: mark.update(offset=mark["offset"] - 3))
    assert_named(run, "its mark is within a line")
    edit_json(path, lambda mark: mark.update(offset=mark["offset"] + 30))
    assert_named(run, "points are lost here")


SUMMARY = {
    "tasks": (lambda s: s["counts"].update(tasks=9), "counts.tasks is 9, and 8"),
    "dropped": (lambda s: s["counts"].update(dropped=-1), "counts.dropped is -1"),
    "sha256": (lambda s: s.update(parameters_sha256="0" * 64), "parameters_sha256 is"),
    "final": (lambda s: s["final"]["auc"].update(mean=0.5), "final is not what follows"),
    "counts": (lambda s: s.update(counts=3), "has no counts"),
    "steps": (lambda s: s["counts"].update(outer_steps=5), "is of outer step 5"),
    "a baseline": (
        lambda s: s["baselines"]["scratch"]["auc"].update(mean=0.5),
        "baselines is not what follows from evaluation/curves.parquet",
    ),
    "a baseline more": (lambda s: s["baselines"].update(other={}), "baselines is not"),
    "no baselines": (lambda s: s.pop("baselines"), "baselines is not"),
    "what was tested": (lambda s: s.update(tested_outer_step=3), "tested_outer_step is 3, and 4"),
    "an end that is none": (lambda s: s.update(ended_by="boredom"), "ended_by is 'boredom'"),
    "no end": (lambda s: s.update(ended_by=""), "ended_by is ''"),
    "an end that was not reached": (
        lambda s: s.update(ended_by="meta.max_hours"),
        "ended_by is meta.max_hours, of which 0",
    ),
    "a throughput": (
        lambda s: s["throughput"].update(inner_steps_per_s=1e6),
        "throughput.inner_steps_per_s is 1000000.0, of 72 steps in",
    ),
    "a throughput and its steps": (
        lambda s: s["throughput"].update(inner_steps=720, inner_steps_per_s=720.0, seconds=1.0),
        "throughput.inner_steps is 720, of 72 in the whole run",
    ),
    "a throughput and its time": (
        lambda s: s["throughput"].update(seconds=1e-6, inner_steps_per_s=72e6),
        "throughput.seconds is 1e-06, and the outer steps alone took",
    ),
    "no speed": (lambda s: s["throughput"].pop("inner_steps_per_s"), "has no inner_steps_per_s"),
    "a throughput that is none": (lambda s: s.update(throughput=-3), "throughput is -3"),
}


@pytest.mark.parametrize(("change", "said"), SUMMARY.values(), ids=list(SUMMARY))
def test_a_summary_that_is_not_the_checkpoints_is_named(run, change, said):
    edit_json(run.summary, change)
    assert_named(run, said)


def test_a_baseline_that_the_summary_lacks_as_a_process_died_is_a_note(run):
    """A meta-test with other baselines writes its curves first, and the summary last."""
    edit_json(run.summary, lambda s: s.update(baselines={}))
    earlier = time.time() - 3600
    os.utime(run.summary, (earlier, earlier))
    report = verify_run(run, 0).report
    assert report.problems == []
    assert "summary.json: is of before the meta-test in evaluation" in report.notes


def test_an_end_by_a_budget_is_one_that_was_reached(runs, copy):
    run = copy(runs("budget"))
    edit_json(run.summary, lambda s: s.update(ended_by="meta.num_steps"))
    assert problems(run) == ["summary.json: ended_by is meta.num_steps, and 2 of 9 were taken"]


def test_a_summary_of_before_there_were_these_figures_is_sound(run):
    def as_before(summary):
        del summary["tested_outer_step"], summary["ended_by"]
        rate = summary["throughput"]["inner_steps_per_s"]
        summary["throughput"] = {"inner_steps_per_s": rate}

    edit_json(run.summary, as_before)
    assert problems(run) == []


def saved_otherwise(run, step, change=0.0, **meta):
    """Put other parameters and words into a checkpoint, as sound as before."""
    checkpoint = CheckpointStore(run.checkpoints, keep=2).load(step)
    experiment = checkpoint.meta["experiment"] | meta.pop("experiment", {})
    meta = checkpoint.meta | meta | {"experiment": experiment}
    aside = CheckpointStore(run.path.parent / "aside", keep=2)  # saving drops later ones
    aside.save(step, [(0, checkpoint.params + np.float32(change), checkpoint.optimizer)], meta)
    folder = run.checkpoints / f"step-{step:06d}"
    shutil.rmtree(folder)
    (run.path.parent / "aside" / folder.name).rename(folder)


@pytest.mark.parametrize("step", [3, 4])
def test_a_checkpoint_of_another_run_is_named(run, step):
    saved_otherwise(run, step, experiment={"seed": 7, "outer.lr": 9.0})
    line = (
        f"checkpoints/step-{step:06d}: is of another run: its outer.lr is 9.0, and 0.1 in "
        "config.yaml; one more key differs"
    )
    assert line in problems(run)
    if step == 3:
        assert problems(run) == [line]


def test_a_checkpoint_of_other_data_is_named(run):
    saved_otherwise(run, 3, data="0" * 64)
    (line,) = problems(run)
    assert line.startswith("checkpoints/step-000003: is of another run: its data are not")


def test_a_configuration_that_no_checkpoint_bears_out_is_named_though_mlflow_is_not_asked(run):
    text = run.config.read_text()
    run.config.write_text(text.replace("seed: 0\n", "seed: 7\n"))
    assert run.config.read_text() != text
    assert "config.yaml: seed is 7, and 0 in the checkpoints" in problems(run)


def test_parameters_of_an_older_checkpoint_are_those_of_the_log(run):
    saved_otherwise(run, 3, change=1.0)
    (line,) = problems(run)
    assert "outer/params_norm of outer step 3 is" in line


def test_a_checkpoint_that_is_a_link_is_named(run, tmp_path):
    folder = run.checkpoints / "step-000003"
    folder.rename(tmp_path / "aside")
    folder.symlink_to(tmp_path / "aside")
    assert problems(run) == ["checkpoints/step-000003: is no folder"]


def test_checksums_of_a_meta_test_that_are_no_file_are_named(run):
    sums = run.evaluation / "SHA256SUMS"
    sums.unlink()
    sums.mkdir()
    assert problems(run) == ["evaluation/SHA256SUMS: is no file"]


def test_parameters_that_are_not_finite_or_not_those_of_the_log_are_named(run):
    store = CheckpointStore(run.checkpoints, keep=2)
    checkpoint = store.load(4)
    changed = checkpoint.params.copy()
    changed[3] += 1
    store.save(4, [(0, changed, checkpoint.optimizer)], checkpoint.meta)
    assert_named(run, "parameters_sha256 is", "outer/params_norm of outer step 4")
    changed[5] = np.nan
    store.save(4, [(0, changed, checkpoint.optimizer)], checkpoint.meta)
    assert_named(run, "checkpoints/step-000004: parameters: 1 elements are not finite")


def test_counters_that_the_rows_do_not_bear_out_are_named(run):
    store = CheckpointStore(run.checkpoints, keep=2)
    checkpoint = store.load(4)
    counters = checkpoint.meta["counters"] | {"inner_steps": 71, "tasks": 7, "env_steps": 5}
    meta = checkpoint.meta | {"counters": counters}
    store.save(4, [(0, checkpoint.params, checkpoint.optimizer)], meta)
    assert_named(run, "72 rows, but", "counts 7 tasks, 2 an outer step", "0 env steps, but")


def test_a_point_of_tasks_that_were_left_out_for_a_hidden_reason_is_not_checked(run):
    """Such as an outer gradient that was not finite: no row of the task says so."""
    rewrite(first_part(run), ROWS["another loss"][0])
    store = CheckpointStore(run.checkpoints, keep=2)
    checkpoint = store.load(4)
    meta = checkpoint.meta | {"counters": checkpoint.meta["counters"] | {"dropped": 1}}
    store.save(4, [(0, checkpoint.params, checkpoint.optimizer)], meta)
    edit_json(run.summary, lambda s: s["counts"].update(dropped=1))
    report = verify_run(run, 0).report
    assert report.problems == []
    assert any("against the rows of outer steps 2" in line for line in report.not_checked)


def test_checkpoints_of_other_versions_and_names_are_named(run):
    (run.checkpoints / "step-000003").rename(run.checkpoints / "step-000002")
    assert_named(run, "checkpoints/step-000002: its manifest is that of outer step 3")
    shutil.rmtree(run.checkpoints / "step-000002")
    notes = verify_run(run, 0).report.notes
    assert "checkpoints: only the newest is there" in notes[0]


def test_a_run_that_has_lost_every_checkpoint_is_named(run):
    shutil.rmtree(run.checkpoints)
    assert_named(
        run,
        "summary.json: is of outer step 4, and no checkpoint is sound",
        "partitions of 4 outer steps after the newest sound checkpoint, where one is written "
        "every 1: a checkpoint is missing",
    )
    run.summary.unlink()
    assert len(problems(run)) == 1


def test_a_run_that_has_lost_its_newest_checkpoint_is_named(in_flight, copy):
    run = copy(in_flight)
    (newest,) = run.checkpoints.glob("step-*")
    assert problems(run) == []
    shutil.rmtree(newest)
    assert problems(run) == []  # it died before the next one: this may be the first
    shutil.copytree(run.trajectories / "meta_step=000000", run.trajectories / "meta_step=000001")
    assert_named(run, "a checkpoint is missing")


TARGET = {
    "without server": (lambda t: t.pop("uri"), "uri is None"),
    "without experiment": (lambda t: t.pop("experiment"), "experiment is None"),
    "a run that is none": (lambda t: t.update(run_id=7), "run_id is 7"),
    "an id of another kind": (lambda t: t.update(tracking_id="' or 1"), "tracking_id is \"' or 1"),
}


@pytest.mark.parametrize(("change", "said"), TARGET.values(), ids=list(TARGET))
def test_a_target_that_lacks_something_is_named(run, change, said):
    edit_json(run.path / "tracking" / "target.json", change)
    assert_named(run, f"tracking/target.json: {said}")


def test_a_target_that_is_lost_is_named(run):
    (run.path / "tracking" / "target.json").unlink()
    assert_named(run, "tracking/target.json: is missing, and ")


def test_the_best_by_validation_is_kept(runs, copy):
    run = copy(runs("episodes"))
    edit_json(run.checkpoints / "validation.json", lambda v: v["best"].update(step=77))
    assert_named(run, "outer step 77 did best, and its checkpoint is not there")
    edit_json(run.checkpoints / "validation.json", lambda v: v["best"].update(step=4, score=7.5))
    assert_named(run, "score is 7.5, and ")
    (run.checkpoints / "validation.json").write_text("[]")
    assert_named(run, "checkpoints/validation.json: is no JSON object")


def test_returns_by_task_follow_from_the_curves(runs, copy):
    run = copy(runs("control"))
    flip(run.evaluation / "tasks.parquet", 0.1)
    assert_named(run, "evaluation/tasks.parquet")
    (run.evaluation / "tasks.parquet").unlink()
    assert_named(run, "evaluation/tasks.parquet: is missing")
    (run.evaluation / "SHA256SUMS").unlink()
    report = verify_run(run, 0).report
    assert report.problems == []
    assert report.notes == ["evaluation/tasks.parquet: is missing; older versions wrote none"]


def test_figures_of_a_target_by_an_older_version_are_a_note(home, copy):
    """It gave them of a method of which no episode ended, too, and wrote no checksums."""
    run = trained(control(evaluation={"target_return": 1000.0}, **FINE))
    assert problems(run) == []
    table = run.evaluation / "tasks.parquet"
    rows = pq.read_table(table).to_pylist()
    for row in rows:
        if row["metric"] == "env_steps_to_target":
            row["mean"] += 5
    pq.write_table(pa.Table.from_pylist(rows), table)
    assert_named(run, "evaluation/tasks.parquet: is not what follows")
    (run.evaluation / "SHA256SUMS").unlink()
    report = verify_run(run, 0).report
    assert report.problems == []
    (note,) = report.notes
    assert note.startswith("evaluation: was written by an older version")
    rows[0]["mean"] += 5
    pq.write_table(pa.Table.from_pylist(rows), table)
    assert_named(run, "evaluation/tasks.parquet: is not what follows")


def test_a_finished_run_without_a_meta_test_is_named(run):
    (run.evaluation / "curves.parquet").unlink()
    assert_named(run, "evaluation/curves.parquet: there is no meta-test")


def test_an_async_task_is_part_of_one_outer_step(runs, copy):
    run = copy(runs("async"))
    rewrite(first_part(run, 2), lambda rows: [r | {"task": r["task"] - 4} for r in rows])
    assert_named(run, "trajectories: in two outer steps: task 0-1")
    rewrite(first_part(run, 2), lambda rows: [r | {"task": r["task"] + 400} for r in rows])
    assert_named(run, "these tasks have not ended: 400-401")


def test_an_async_outer_step_that_was_taken_again_may_have_come_out_otherwise(runs, copy):
    run = copy(runs("async"))
    rewrite(first_part(run), lambda rows: [r | {"loss": r["loss"] + 1} for r in rows])
    assert_named(run, "train/loss differs")
    later = time.time() + 3600
    os.utime(first_part(run).parent, (later, later))
    verdict = verify_run(run, 0)
    assert verdict.report.problems == []
    assert "outer steps 2 were taken again after a crash" in verdict.report.notes[0]


@pytest.fixture(scope="module")
def in_flight(home):
    """A run that died in the middle of the second outer step."""
    inner = {"num_steps": 8, "segment_steps": 2, "checkpoint_every": 2}
    return dies_after(14, tiny(inner=inner, **FINE))


@pytest.mark.parametrize("pattern", ["state-*", "rows-*"])
def test_tasks_under_way_are_checked(in_flight, copy, pattern):
    run = copy(in_flight)
    path = sorted(run.in_flight.glob(f"*/{pattern}"))[0]
    flip(path) if pattern == "state-*" else flip_values(path)
    assert_named(run, path.name)
    path.unlink()
    if pattern == "rows-*":
        assert_named(run, "no rows of inner steps 0 to 1")


def test_rows_of_a_task_under_way_are_those_that_the_name_says(in_flight, copy):
    run = copy(in_flight)
    path = sorted(run.in_flight.glob("*/rows-*"))[0]
    rewrite(path, lambda rows: rows[:1])
    assert_named(run, "wrong checksum")
    path.rename(path.with_name(f"{path.stem.rpartition('-')[0]}.parquet"))
    assert_named(run, "1 rows, where its name says 2")


def test_every_bit_of_rows_of_a_task_under_way_is_vouched_for(in_flight, copy):
    run = copy(in_flight)
    path = sorted(run.in_flight.glob("*/rows-*"))[0]
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place in range(footer, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert_named(run, path.name)


def test_rows_of_before_their_names_had_a_checksum_are_sound(in_flight, copy):
    run = copy(in_flight)
    for path in run.in_flight.glob("*/rows-*"):
        path.rename(path.with_name(f"{path.stem.rpartition('-')[0]}.parquet"))
    assert problems(run) == []
    assert verify_run(run, 0).report.checked["rows_in_flight"] > 0


@pytest.mark.parametrize(
    "name",
    ["checkpoints", "trajectories", "evaluation", "in_flight", "tracking/pending", "tracking"],
)
def test_what_is_there_in_place_of_a_folder_is_named(run, name):
    path = run.path / name
    if path.exists():
        shutil.rmtree(path)
    path.touch()
    assert problems(run)[0] == f"{name}: is no folder"
    assert name == "checkpoints" or len(problems(run)) == 1
    path.unlink()
    path.symlink_to(run.path / "nothing")
    assert problems(run)[0] == f"{name}: is a link to nothing"


def test_what_is_there_in_place_of_a_task_under_way_is_named(run):
    run.in_flight.mkdir()
    (run.in_flight / "step-000004-task-000000").touch()
    assert problems(run) == ["in_flight/step-000004-task-000000: is no folder"]


@pytest.mark.parametrize("name", ["notes.txt", "1x-a.json", "00000007-model", "00000001-.json"])
def test_what_is_no_item_of_the_outbox_is_named(run, name):
    (run.path / "tracking" / "pending" / name).write_text("{}")
    assert problems(run) == [f"tracking/pending/{name}: is nothing that can be sent; remove it"]


def test_a_task_that_is_on_record_is_not_under_way_in_a_finished_run(run, in_flight):
    shutil.copytree(in_flight.in_flight, run.in_flight, dirs_exist_ok=True)
    assert_named(run, "its task is on record")


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "is no JSON"), ('{"number": "8"}', "number is '8'"), ("{}", "writers is None"),
     ('{"number": 8, "writers": [], "damaged": [7]}', "damaged is [7]")],
)  # fmt: skip
def test_what_says_which_copies_the_run_has_part_in_is_checked(run, content, said):
    sound = {"number": 8, "writers": ["0" * 16], "damaged": []}
    (run.path / ".copied.json").write_text(json.dumps(sound))
    assert problems(run) == []
    (run.path / ".copied.json").write_text(content)
    assert_named(run, f".copied.json: {said}")


def test_what_a_process_left_half_written_is_no_problem(run):
    (run.checkpoints / ".tmp-step-000005-77").mkdir()
    (run.path / ".tmp-summary.json-77").touch()
    verdict = verify_run(run, 0)
    assert verdict.report.problems == []
    assert verdict.report.checked["leftovers"] == 2
    assert "checkpoints/.tmp-step-000005-77" in verdict.report.notes[0]


def test_names_that_no_terminal_takes_are_told_in_a_line(run):
    (run.trajectories / "meta_step=000001" / "part-00000.parquet").unlink()
    run.in_flight.mkdir()
    os.mkdir(os.fsencode(run.in_flight) + b"/\xff\n\x1b[31m")
    (path,) = run.in_flight.iterdir()
    (path / "rows-000000000000-000000000002.parquet").touch()
    assert_named(run, "part 0 is missing", "\\udcff")
