"""Damage to what says which run in MLflow is this one is told before any work is done."""

from __future__ import annotations

import json
import shutil

import pytest

from pipeline import session
from pipeline.errors import BadInputError
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from pipeline.verify import verify_run
from tests.pipeline.copies_for_tests import Machine, experiment


@pytest.fixture
def run(tmp_path, monkeypatch, database) -> RunFolder:
    return Machine(tmp_path / "home", monkeypatch).train_until(2, experiment("", database))


def test_a_run_whose_target_is_damaged_is_left_as_it_is_until_that_is_mended(run):
    target = run.path / "tracking" / "target.json"
    sound = target.read_bytes()
    target.write_bytes(sound.replace(b'"uri"', b'"urj"'))
    before = run.config.read_bytes(), run.summary.read_bytes(), target.read_bytes()
    with pytest.raises(BadInputError, match=r"target\.json: uri is None; put the file back"):
        session.resume(run, ["meta.steps=3"], SilentProgress())
    with pytest.raises(BadInputError, match=r"target\.json: uri is None"):
        session.evaluate(run, (), SilentProgress())
    assert before == (run.config.read_bytes(), run.summary.read_bytes(), target.read_bytes())
    target.write_bytes(sound)
    result = session.resume(run, ["meta.steps=3"], SilentProgress())
    assert result.mlflow_run_id == json.loads(sound)["run_id"]
    assert verify_run(run).report.problems == []


def test_a_run_with_the_target_of_another_is_left_as_it_is_until_that_is_mended(run):
    other = run.path.with_name("its-double")
    shutil.copytree(run.path, other)
    sound = run.path / "tracking" / "target.json"
    before = sound.read_bytes()
    for work in (session.evaluate, session.resume):
        with pytest.raises(BadInputError, match=rf"target\.json: is that of run {run.run_id}; put"):
            work(RunFolder(other), (), SilentProgress())
    (other / "tracking" / "target.json").unlink()
    result = session.resume(RunFolder(other), (), SilentProgress())
    assert result.mlflow_run_id != json.loads(before)["run_id"]
    assert sound.read_bytes() == before


def test_a_run_that_is_reached_by_a_link_beside_it_is_not_taken_for_another(run):
    link = run.path.with_name("link")
    link.symlink_to(run.path)
    first = json.loads((run.path / "tracking" / "target.json").read_bytes())["run_id"]
    assert session.resume(RunFolder(link), (), SilentProgress()).mlflow_run_id == first


def test_a_run_that_was_renamed_is_the_same_in_mlflow(run):
    first = json.loads((run.path / "tracking" / "target.json").read_bytes())["run_id"]
    renamed = RunFolder(run.path.rename(run.path.with_name("renamed")))
    assert session.resume(renamed, (), SilentProgress()).mlflow_run_id == first


def test_a_run_whose_target_was_removed_is_a_new_one_in_mlflow_with_all_its_curves(run):
    target = run.path / "tracking" / "target.json"
    first = json.loads(target.read_bytes())["run_id"]
    target.unlink()
    result = session.resume(run, ["meta.steps=3"], SilentProgress())
    assert result.mlflow_run_id != first
    report = verify_run(run).report
    assert report.problems == []
    assert report.checked["mlflow_points"] == report.checked["metric_points"]
