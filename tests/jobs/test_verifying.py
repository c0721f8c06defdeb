"""`outerloop verify`: exit codes, the JSON that scripts rely on, one line for each problem."""

from __future__ import annotations

import json
import shutil

import pytest

from jobs import cli
from pipeline import session
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from tests.pipeline.runs_for_tests import at_home, tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with at_home(tmp_path_factory.mktemp("runs")):
        experiment = tiny(meta={"batch_size": 2, "num_steps": 2})
        yield RunFolder(session.train(experiment, SilentProgress()).run_dir)


def verify(capsys, *words):
    code = cli.run(["verify", *map(str, words)])
    return code, *capsys.readouterr()


def test_a_sound_run_is_ok(run, capsys):
    code, out, err = verify(capsys, run.run_id, "--json")
    result = json.loads(out.splitlines()[-1])
    assert (code, result["ok"], result["problems"]) == (0, True, [])
    assert result["state"] == "finished"
    assert result["mlflow_status"] == "FINISHED"
    assert result["checked"]["mlflow_points"] == result["checked"]["metric_points"]
    assert "no problem" in err


def test_a_damaged_run_has_a_line_for_each_problem_and_exit_code_1(run, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(run.path, folder)
    shutil.rmtree(folder / "trajectories" / "meta_step=000000")
    (folder / "evaluation" / "summary.parquet").write_bytes(b"[red]no[/red]")
    code, out, err = verify(capsys, folder, "--mlflow-timeout", "0", "--json")
    result = json.loads(out.splitlines()[-1])
    assert (code, result["ok"], result["exit_code"]) == (1, False, 1)
    assert "trajectories: no partition of meta_step 0" in result["problems"]
    assert all(f"problem: {line}" in err for line in result["problems"])
    assert any("MLflow" in line and "not to be asked" in line for line in result["not_checked"])
    code, out, err = verify(capsys, folder, "--mlflow-timeout", "0")
    assert code == 1
    assert f"{len(result['problems'])} problems" in out
    assert "Traceback" not in out + err


def test_what_is_no_run_is_bad_input(run, tmp_path, capsys):
    code, out, err = verify(capsys, "nothing-of-the-kind", "--json")
    assert (code, json.loads(out)["exit_code"]) == (2, 2)
    assert err.startswith("error: unknown run 'nothing-of-the-kind'")
    assert verify(capsys, tmp_path)[0] == 2


def test_the_address_of_a_copy_is_no_folder_and_the_line_says_what_brings_it_here(tmp_path, capsys):
    (tmp_path / "copies").mkdir()
    for address, shown in (
        ("s3://bucket/runs/x-1", "s3://bucket/runs/x-1"),
        ("s3://me:secret@bucket/runs/x-1", "s3://***@bucket/runs/x-1"),
        (str(tmp_path), str(tmp_path)),
    ):
        code, _, err = verify(capsys, address)
        assert code == 2
        assert err.startswith(f"error: '{shown}' holds copies of a run; expected the folder")
        assert f"`outerloop train --resume {shown}` brings" in err
        assert "unknown run" not in err
