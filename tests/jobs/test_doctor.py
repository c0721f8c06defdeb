"""The doctor: a row for each thing that a run needs, with how to mend it."""

import pytest

from jobs import doctor


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(doctor, "try_ray", lambda timeout_s: doctor.Check("Ray starts", "ok", ""))


def found():
    return {check.name: check for check in doctor.all_checks()}


def test_a_row_for_each_thing_a_run_needs():
    names = "Python torch ray mlflow processor GPU run|folder MLflow|store disk Ray|starts"
    assert {name.replace("|", " ") for name in names.split()} <= found().keys()


def test_missing_data_is_a_warning_with_the_command_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_DATA", str(tmp_path))
    check = found()["data: omniglot"]
    assert check.status == "warn"
    assert "outerloop data fetch omniglot" in check.mend
    assert found()["data: glyphs"].status == "ok"


def test_home_that_cannot_be_written_fails(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "file" / "runs"))
    check = found()["run folder"]
    assert check.status == "fail"
    assert "OUTERLOOP_HOME" in check.mend


def test_store_that_is_no_database_fails(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_bytes(b"no database" * 100)
    assert found()["MLflow store"].status == "fail"


def test_server_that_does_not_answer_fails(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert found()["MLflow store"].status == "fail"


def test_ray_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.undo()
    check = doctor.try_ray(timeout_s=0.2)
    assert check.status == "fail"
    assert "no answer" in check.found


@pytest.mark.ray
def test_ray_starts_here(monkeypatch):
    monkeypatch.undo()
    assert doctor.try_ray(timeout_s=120).status == "ok"
