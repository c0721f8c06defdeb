"""The log against MLflow: what is missing, twice, other, or waits; and MLflow that is not there."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
from contextlib import closing

import pytest

from pipeline.verify import verify_run
from tests.pipeline.runs_for_tests import tiny
from tests.pipeline.verify.conftest import FINE, trained
from tests.pipeline.verify.damage import edit_json

SQLITE = "sqlite:///"


@pytest.fixture
def stored(runs, copy, tmp_path):
    """A copy of a run and of the store that it is in: (run, path of the store, run in MLflow)."""
    run = copy(runs("sync"))
    target = run.path / "tracking" / "target.json"
    store = tmp_path / "a store#1.db"
    content = json.loads(target.read_text())
    shutil.copy(content["uri"].removeprefix(SQLITE), store)
    edit_json(target, lambda t: t.update(uri=f"{SQLITE}{store}"))
    return run, store, content["run_id"]


def change(store, *statement):
    with closing(sqlite3.connect(store)) as database:
        database.execute(*statement)
        database.commit()


def test_a_copy_of_a_store_is_as_good(stored):
    verdict = verify_run(stored[0])
    assert verdict.report.problems == []
    assert verdict.status == "FINISHED"


def test_a_server_is_asked_too(home, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    run = trained(tiny(**FINE))
    verdict = verify_run(run)
    assert verdict.report.problems == []
    assert verdict.status == "FINISHED"
    assert verdict.report.checked["mlflow_points"] == verdict.report.checked["metric_points"] > 0
    edit_json(run.path / "tracking" / "target.json", lambda t: t.update(run_id="0" * 32))
    (problem,) = verify_run(run).report.problems
    assert problem.endswith(f"has no run {'0' * 32}")


WHERE = "WHERE key = 'train/loss' AND step = 2 AND run_uuid = ?"
CHANGES = {
    "missing": (
        f"DELETE FROM metrics {WHERE}",
        ["MLflow: train/loss: no point of step 2, which was sent"],
        (1, 0),
    ),
    "another value": (
        f"UPDATE metrics SET value = value + 1 {WHERE}",
        [
            "MLflow: train/loss: no point of step 2, which was sent",
            "MLflow: train/loss: a point of step 2 that is not in metrics.jsonl",
        ],
        (1, 0),
    ),
    "twice": (
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) SELECT key, value, "
        f"timestamp + 1, run_uuid, step, is_nan FROM metrics {WHERE}",
        [
            "MLflow: train/loss: 1 steps have more than one point",
            "MLflow: train/loss: a point of step 2 that is not in metrics.jsonl",
        ],
        (0, 1),
    ),
    "a parameter": (
        "UPDATE params SET value = '7' WHERE key = 'seed' AND run_uuid = ?",
        ["config.yaml: seed is '0', and in MLflow '7'"],
        (0, 0),
    ),
    "another run": (
        "UPDATE tags SET value = 'x' WHERE key = 'outerloop.tracking_id' AND run_uuid = ?",
        ["is not this one, but another"],
        None,
    ),
    "deleted": (
        "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?",
        ["was deleted there"],
        None,
    ),
}


@pytest.mark.parametrize(("statement", "said", "counts"), CHANGES.values(), ids=list(CHANGES))
def test_what_mlflow_has_otherwise_is_named(stored, statement, said, counts):
    run, store, run_id = stored
    change(store, statement, (run_id,))
    report = verify_run(run).report
    assert len(report.problems) == len(said)
    for line, word in zip(report.problems, said, strict=True):
        assert word in line
    if counts is not None:
        found = report.checked
        assert (found["mlflow_missing"], found["mlflow_duplicates"]) == counts


def test_points_that_wait_are_not_missing(stored):
    run, store, run_id = stored
    change(store, "DELETE FROM metrics WHERE step >= 3 AND run_uuid = ?", (run_id,))
    lines = run.metrics.read_bytes().splitlines(keepends=True)
    sent = next(i for i, line in enumerate(lines) if json.loads(line)["step"] >= 3)
    offset = sum(map(len, lines[:sent]))
    (run.path / "tracking" / "delivered.json").write_text(json.dumps({"offset": offset}))
    pending = run.path / "tracking" / "pending"
    (pending / "00000099-tags.json").write_text(json.dumps({"kind": "tags", "content": {}}))
    report = verify_run(run).report
    assert report.problems == []
    assert report.checked["mlflow_waiting"] == len(lines) - sent
    assert "1 items wait for MLflow" in report.notes[-1]
    (pending / "00000099-tags.json").write_text("{")
    (problem,) = verify_run(run).report.problems
    assert "00000099-tags.json: is no JSON; it will not be sent" in problem


def test_a_status_that_is_not_the_runs_is_told(stored):
    run, store, run_id = stored
    change(store, "UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", (run_id,))
    verdict = verify_run(run)
    assert verdict.status == "RUNNING"
    assert verdict.report.problems == []
    assert verdict.report.notes == ["MLflow: the run's status is RUNNING, and it is finished"]


@pytest.mark.parametrize("content", [None, b"", b"no database", "folder"])
def test_a_store_that_is_none_is_told_of_and_left_as_it_is(stored, content):
    run, store, _ = stored
    store.unlink()
    if content == "folder":
        store.mkdir()
    elif content is not None:
        store.write_bytes(content)
    report = verify_run(run).report
    assert report.problems == []
    assert report.not_checked[0].startswith(f"MLflow at {SQLITE}{store}: ")
    assert store.exists() == (content is not None)
    if isinstance(content, bytes):
        assert store.read_bytes() == content


def test_a_run_that_the_store_does_not_know_is_a_problem(stored):
    run, _, _ = stored
    edit_json(run.path / "tracking" / "target.json", lambda t: t.update(run_id="0" * 32))
    (problem,) = verify_run(run).report.problems
    assert problem.endswith(f"has no run {'0' * 32}")


def test_a_server_that_does_not_answer_is_waited_for_as_long_as_is_asked(stored):
    run, _, _ = stored
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        edit_json(run.path / "tracking" / "target.json", lambda t: t.update(uri=uri))
        report = verify_run(run, mlflow_timeout_s=0.3).report
    assert report.problems == []
    assert report.not_checked[0] == f"MLflow at {uri}: no answer within 0.3 s"


def test_the_password_of_a_server_comes_from_the_environment(stored, monkeypatch):
    run, _, _ = stored
    shown = "http://***@127.0.0.1:9"
    edit_json(run.path / "tracking" / "target.json", lambda t: t.update(uri=shown))
    assert "its password is not known here" in verify_run(run).report.not_checked[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    (line, _) = verify_run(run).report.not_checked
    assert line.startswith(f"MLflow at {shown}: ")
    assert "password" not in line
    assert "secret" not in line


def test_a_run_that_never_reached_mlflow_has_no_problem(stored):
    run, _, _ = stored
    edit_json(run.path / "tracking" / "target.json", lambda t: t.update(run_id=None))
    report = verify_run(run).report
    assert report.problems == []
    assert report.not_checked[0] == "MLflow: the run has not been there yet"


def fetched(run, content) -> None:
    """Make of the run one that was fetched from a copy, and gone on with since."""
    (run.path / "tracking" / "fetched.json").write_text(json.dumps(content))


OTHERWISE = "UPDATE metrics SET timestamp = timestamp + 1, value = value + 1"
NEXT_STEP = (
    "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) SELECT key, value, "
    "timestamp, run_uuid, step + 1, is_nan FROM metrics WHERE key = 'train/loss' AND step = 4 AND "
    "run_uuid = ?"
)


@pytest.mark.parametrize("content", [{"steps": {"train/loss": 3}}, {}])
def test_of_steps_before_it_was_fetched_mlflow_keeps_the_points_of_the_first_time(stored, content):
    run, store, run_id = stored
    change(store, f"{OTHERWISE} {WHERE.replace('= 2', '<= 3')}", (run_id,))
    assert verify_run(run).report.problems != []
    fetched(run, content)
    report = verify_run(run).report
    assert report.problems == []
    assert report.checked["mlflow_missing"] == report.checked["mlflow_waiting"] == 0
    change(store, f"DELETE FROM metrics {WHERE}", (run_id,))
    assert verify_run(run).report.problems == [
        "MLflow: train/loss: no point of step 2, which was sent"
    ]


def test_steps_that_were_not_taken_again_since_a_run_was_fetched_are_a_note(stored):
    run, store, run_id = stored
    change(store, NEXT_STEP, (run_id,))
    fetched(run, {"steps": {"train/loss": 5}})
    report = verify_run(run).report
    assert report.problems == []
    assert report.notes[-1].startswith("MLflow: has points of steps 5, taken before the run was")
    fetched(run, {"steps": {"train/loss": 4}})
    (problem,) = verify_run(run).report.problems
    assert problem == "MLflow: train/loss: a point of step 5 that is not in metrics.jsonl"


def test_points_that_mlflow_had_when_a_run_was_fetched_are_there(stored):
    run, _, _ = stored
    fetched(run, {"steps": {"train/loss": 9, "gone": 2, "eval/test/auc": 4}})
    assert verify_run(run).report.problems == [
        "MLflow: gone: no point of step 2 any more, by fetched.json",
        "MLflow: train/loss: no point of step 9 any more, by fetched.json",
    ]


def test_a_summary_that_is_missing_though_the_run_came_to_its_end_is_named(stored):
    run, _, _ = stored
    run.summary.unlink()
    (problem,) = verify_run(run).report.problems
    assert problem == "summary.json: is missing, and by MLflow the run has come to its end"
    fetched(run, {})  # from a copy that was made before
    assert verify_run(run).report.problems == []


def test_steps_after_a_run_was_fetched_are_compared_as_ever(stored):
    run, store, run_id = stored
    fetched(run, {"steps": {"train/loss": 2}})
    change(store, f"{OTHERWISE} {WHERE.replace('= 2', '= 3')}", (run_id,))
    first, second = verify_run(run).report.problems
    assert first == "MLflow: train/loss: no point of step 3, which was sent"
    assert second == "MLflow: train/loss: a point of step 3 that is not in metrics.jsonl"


@pytest.mark.parametrize("steps", [3, [3], {"train/loss": "3"}, {"train/loss": True}, None])
def test_a_mark_of_what_mlflow_had_that_is_damaged_is_named(stored, steps):
    run = stored[0]
    fetched(run, {"steps": steps})
    (problem,) = verify_run(run).report.problems
    assert problem.startswith("tracking/fetched.json: steps is ")


def test_a_fetched_run_whose_store_went_with_the_machine_gets_another(stored):
    run, _, _ = stored
    edit_json(run.path / "tracking" / "target.json", lambda t: t.update(run_id="0" * 32))
    fetched(run, {})
    report = verify_run(run).report
    assert report.problems == []
    assert "gets one when the run is gone on with" in report.notes[-1]
