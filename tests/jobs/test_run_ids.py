"""`train --run-id`: the same command again goes on with the run, wherever it is by then."""

from __future__ import annotations

import json
import shutil

import pytest

from jobs import cli
from tests.jobs.words_for_tests import TINY


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "runs"


def said(capsys, *words, code=0):
    assert cli.run(["--json", "train", *TINY, *words]) == code
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_same_command_again_goes_on_with_the_run(capsys):
    whole = said(capsys, "meta.steps=4")
    part = said(capsys, "meta.steps=2", "--run-id", "night")
    rest = said(capsys, "meta.steps=4", "--run-id", "night")
    assert part["run_id"] == rest["run_id"] == "night"
    assert rest["outer_steps"] == 4
    assert rest["parameters_sha256"] == whole["parameters_sha256"]
    assert rest["mlflow_run_id"] == part["mlflow_run_id"]


def test_a_run_of_another_experiment_is_not_gone_on_with(capsys):
    said(capsys, "meta.steps=1", "--run-id", "night")
    refused = said(capsys, "meta.steps=1", "outer.lr=0.5", "--run-id", "night", code=2)
    assert refused["error"].startswith("run night exists, with outer.lr=0.1, not 0.5: give another")


@pytest.mark.parametrize("run_id", ["", "../x", ".hidden", "a/b", "x" * 201, "a b"])
def test_what_can_be_no_folder_is_no_run_id(run_id, capsys, home):
    assert "run id '" in said(capsys, "--run-id", run_id, code=2)["error"]
    assert not home.exists()


def test_resume_takes_no_run_id(capsys):
    assert cli.run(["train", "--resume", "some", "--run-id", "other"]) == 2
    assert "give one of the two" in capsys.readouterr().err


def test_the_same_command_on_another_machine_goes_on_from_the_copy(capsys, tmp_path, monkeypatch):
    copy_to = f"checkpoint.copy_to={tmp_path / 'store'}"
    part = said(capsys, "meta.steps=2", "--run-id", "night", copy_to)
    shutil.rmtree(tmp_path / "runs" / "night")
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "elsewhere"))
    rest = said(capsys, "meta.steps=3", "--run-id", "night", copy_to)
    assert part["outer_steps"] == 2
    assert rest["outer_steps"] == 3
    assert rest["run_dir"] == str(tmp_path / "elsewhere" / "night")


def test_a_password_in_the_tracking_address_is_not_in_what_is_printed(capsys, monkeypatch):
    monkeypatch.setattr("pipeline.run_ending.FINISH_TIMEOUT_S", 0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://alice:hunter2@127.0.0.1:9")
    assert cli.run(["--json", "train", *TINY, "meta.steps=1"]) == 0
    output = capsys.readouterr()
    assert "hunter2" not in output.out + output.err
    assert json.loads(output.out.splitlines()[-1])["tracking_uri"] == "http://***@127.0.0.1:9"
