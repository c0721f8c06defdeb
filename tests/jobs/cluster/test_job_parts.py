"""What a job brings along, how its driver is started again, and how its log is read."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

from jobs.cluster.entry import Entry
from jobs.cluster.following import JobLog
from jobs.cluster.shipping import EXPERIMENT, shipment
from pipeline import origin
from pipeline.errors import BadInputError
from tests.pipeline.runs_for_tests import tiny


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_shipment_is_the_code_the_experiment_and_what_is_included(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "learner.py").write_text("x = 1")
    (tmp_path / "mine" / "__pycache__").mkdir()
    (tmp_path / "split.json").write_text("{}")
    with shipment(tiny(), [tmp_path / "mine", tmp_path / "split.json"]) as folder:
        assert names(folder) >= {"algorithms", "pipeline", "jobs", "mine", "split.json"}
        assert names(folder / "mine") == {"learner.py"}
        assert not list(folder.rglob("__pycache__"))
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 5 << 20
        # It stands alone: nothing of this checkout is imported, and the version is known.
        command = [sys.executable, "-c", "import jobs.cli; jobs.cli.run(['--version'])"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("outerloop ")
        shown = [sys.executable, "-m", "jobs.cli", "--json", "show", EXPERIMENT]
        done = subprocess.run(
            shown, cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        said = json.loads(done.stdout.splitlines()[-1])["experiment"]
        assert said == tiny().model_dump(mode="json")
    assert not folder.exists()


def test_what_cannot_go_along_is_named(tmp_path):
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "large").write_bytes(bytes(101 << 20))
    for path, said in (
        (tmp_path / "pipeline", "there is a 'pipeline' already"),
        (tmp_path / "nowhere", "nowhere: cannot be read: No such file"),
        (tmp_path / "large", "at most 100 go along"),
    ):
        with pytest.raises(BadInputError, match=said), shipment(None, [path]):
            pass


def test_bad_input_is_not_tried_again(capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path))
    assert Entry().run(3, ["no-such-thing", "--run-id", "r1"]) == 2
    said = capfd.readouterr()
    assert said.err.count("unknown experiment") == 1
    assert said.out.startswith('result: {"error": "unknown experiment')


def test_a_driver_that_dies_again_and_again_is_given_up(capfd, tmp_path, monkeypatch):
    """One that cannot even begin: there is no room for its run."""
    monkeypatch.setattr("jobs.cluster.entry.FIRST_WAIT_S", 0.0)
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONHASHSEED", "no number either")  # Python ends with 1
    assert Entry().run(2, ["quickstart", "--run-id", "r1"]) == 1
    said = capfd.readouterr().out
    assert said.count("the driver ended (exit code 1): started again") == 2
    assert said.endswith("the driver ended (exit code 1): job.max_retries=2 used up\n")


def printed(log_of):
    output = io.StringIO()
    log = JobLog(Console(file=output, width=200))
    log_of(log)
    log.end()
    return log, output.getvalue()


def test_a_log_that_is_sent_again_after_a_lost_connection_is_printed_once():
    text = 'one\ntwo\nMLflow: http://host/#/experiments/1/runs/a\nresult: {"run_id": "r"}\nend'

    def take(log):
        for cut in (0, 2, 5, len(text) - 3, len(text)):
            log.begin_again()
            for start in range(0, cut, 7):
                log.take(text[start : min(cut, start + 7)])

    log, output = printed(take)
    assert output == "one\ntwo\nMLflow: http://host/#/experiments/1/runs/a\nend\n"
    assert log.mlflow == "http://host/#/experiments/1/runs/a"
    assert log.result == {"run_id": "r"}


def test_a_torn_result_is_a_line_as_any_other():
    log, output = printed(lambda log: log.take('result: {"run_'))
    assert output == 'result: {"run_\n'
    assert log.result == {}


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", "{}", '{"metadata": 3}', '{"metadata": null}']
)
def test_a_driver_of_no_job_has_no_metadata(text, monkeypatch):
    monkeypatch.setenv(origin.JOB_CONFIG, text)
    assert origin.job_metadata() == {}


def test_a_driver_of_a_job_says_so_in_its_tags(monkeypatch):
    metadata = {"job_submission_id": "job-1", origin.PAGE_KEY: "http://h/#/jobs/job-1"}
    metadata[origin.COMMIT_KEY] = "c" * 40
    monkeypatch.setenv(origin.JOB_CONFIG, json.dumps({"metadata": metadata}))
    tags = origin.origin_tags()
    assert tags["outerloop.ray_job"] == "job-1"
    assert tags["outerloop.ray_job_page"] == "http://h/#/jobs/job-1"
    assert tags["mlflow.source.git.commit"] == "c" * 40


def test_a_commit_says_whether_files_were_changed_since(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True)

    monkeypatch.setattr(origin, "__file__", str(tmp_path / "package" / "origin.py"))
    monkeypatch.chdir(tmp_path)
    assert origin.git_commit() == ""
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "one")
    commit = origin.git_commit()
    assert len(commit) == 40
    (tmp_path / "file").write_text("2")
    assert origin.git_commit() == f"{commit}-dirty"
