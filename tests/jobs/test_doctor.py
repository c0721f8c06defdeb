"""The doctor: a row for each thing that a run needs, and for each broken thing its own cure."""

import sqlite3
from contextlib import closing
from importlib.metadata import PackageNotFoundError

import pytest
from rich.console import Console

from jobs import checks, doctor
from pipeline.data.omniglot import Omniglot


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "runs"))
    monkeypatch.setenv("OUTERLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(checks, "try_ray", lambda timeout_s: checks.Check("Ray starts", "ok", ""))


@pytest.fixture
def nowhere(tmp_path):
    """A folder that nobody can make."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "folder"


def found():
    return {check.name: check for check in doctor.all_checks()}


def test_a_row_for_each_thing_a_run_needs():
    names = "Python torch ray mlflow processor GPU cache run|folder MLflow|store disk Ray|starts"
    assert {name.replace("|", " ") for name in names.split()} <= found().keys()


def test_a_package_that_is_not_installed_fails(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(checks, "version", version)
    check = checks.package("ray")
    assert (check.status, check.found) == ("fail", "not installed")
    assert "make setup" in check.mend


def test_missing_data_is_a_warning_with_the_command_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_DATA", str(tmp_path))
    check = found()["data: omniglot"]
    assert check.status == "warn"
    assert str(tmp_path / "omniglot") in check.found
    assert "outerloop data fetch omniglot" in check.mend
    assert found()["data: glyphs"].status == "ok"


def test_damaged_data_fails_with_what_replaces_it(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_DATA", str(tmp_path))
    (tmp_path / "omniglot").mkdir()
    for file in Omniglot.files:
        (tmp_path / file.path).write_bytes(b"torn")
    check = found()["data: omniglot"]
    assert check.status == "fail"
    assert "is no whole zip archive" in check.found
    assert check.mend == "`outerloop data fetch omniglot` replaces it"


def test_missing_fonts_are_not_to_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.data.glyphs.get_data_path", lambda: str(tmp_path))
    check = found()["data: glyphs"]
    assert check.status == "warn"
    assert check.mend == "install matplotlib anew"


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("cache", "OUTERLOOP_CACHE"),
        ("run folder", "OUTERLOOP_HOME"),
        ("MLflow store", "OUTERLOOP_HOME"),
    ],
)
def test_a_folder_that_cannot_be_written_fails_with_its_variable(
    nowhere, monkeypatch, name, variable
):
    monkeypatch.setenv(variable, str(nowhere))
    check = found()[name]
    assert check.status == "fail"
    assert check.found == f"{nowhere}: Not a directory"
    assert check.mend.startswith(f"set {variable} to a ")


def test_a_store_of_its_own_that_cannot_be_written_is_not_the_homes_fault(nowhere, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{nowhere}/mlflow.db")
    check = checks.store()
    assert check.status == "fail"
    assert check.mend.startswith("set MLFLOW_TRACKING_URI to a ")


@pytest.fixture
def database(tmp_path):
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs" / "mlflow.db"


def test_a_store_that_is_no_database_fails(database):
    database.write_bytes(b"no database" * 100)
    check = checks.store()
    assert (check.status, check.found) == ("fail", f"{database}: file is not a database")
    assert "move it away" in check.mend


def test_a_store_that_another_program_holds_fails(database, monkeypatch):
    monkeypatch.setattr(checks, "SERVER_TIMEOUT_S", 0.1)
    with closing(sqlite3.connect(database)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN IMMEDIATE")
        check = checks.store()
        assert (check.status, check.mend) == ("fail", "end the program that holds it")
        other.execute("ROLLBACK")
    assert checks.store().status == "ok"


def test_a_server_that_does_not_answer_fails_in_plain_words(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pw@127.0.0.1:9")
    check = checks.store()
    assert (check.status, check.found) == ("fail", "http://***@127.0.0.1:9: connection refused")
    assert "MLFLOW_TRACKING_URI" in check.mend


def test_an_address_that_is_none_fails(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    check = checks.store()
    assert check.status == "fail"
    assert "expected an MLflow server" in check.found
    assert "MLFLOW_TRACKING_URI" in check.mend


def test_a_full_disk_is_a_warning(monkeypatch):
    monkeypatch.setattr(checks, "MIN_DISK_GIB", 1 << 40)
    check = checks.disk()
    assert check.status == "warn"
    assert "make room" in check.mend


def test_no_path_is_cut_on_a_narrow_terminal(tmp_path, monkeypatch, capsys):
    deep = tmp_path.joinpath(*["a-folder-of-a-long-name"] * 5)
    monkeypatch.setenv("OUTERLOOP_HOME", str(deep))
    assert doctor.report(Console(width=40))["exit_code"] in (0, 1)
    assert f"run folder: {deep} can be written\n" in capsys.readouterr().out


def test_ray_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.undo()
    check = checks.try_ray(timeout_s=0.2)
    assert check.status == "fail"
    assert "no answer" in check.found


@pytest.mark.ray
def test_ray_without_a_place_for_its_files_fails_with_the_variable_that_names_one(
    nowhere, monkeypatch
):
    monkeypatch.undo()
    monkeypatch.setenv("RAY_TMPDIR", str(nowhere))
    check = checks.try_ray(timeout_s=120)
    assert check.status == "fail"
    assert check.found == f"Ray could not start: [Errno 20] Not a directory: '{nowhere}'"
    assert check.mend.startswith("set RAY_TMPDIR to a ")


@pytest.mark.ray
def test_ray_starts_though_home_cannot_be_written_nor_this_folder_be_trusted(
    nowhere, tmp_path, monkeypatch
):
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(nowhere))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "ray.py").write_text("raise SystemExit('of this folder')")
    monkeypatch.chdir(tmp_path)
    assert checks.try_ray(timeout_s=120) == checks.Check("Ray starts", "ok", "a task ran")
