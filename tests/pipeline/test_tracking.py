import json
import sys

import pytest

from pipeline.errors import BadInputError
from pipeline.outbox import count_items
from pipeline.tracking import Tracker, tracking_uri
from tests.pipeline.mlflow_for_tests import (
    assert_has_everything,
    client,
    curve,
    expected_curve,
    log_everything,
    log_steps,
    run_folder,
)


@pytest.mark.parametrize("store", ["database", "server"])
def test_a_run_has_all_that_was_logged_and_has_it_once_when_it_is_sent_again(
    request, tmp_path, store
):
    uri = request.getfixturevalue(store)
    uri = uri if store == "database" else uri.uri
    folder = run_folder(tmp_path)
    experiment = f"everything-{store}"
    for _ in range(2):
        tracker = Tracker(uri, experiment, folder)
        log_everything(tracker, folder)
        log_steps(tracker, range(1100))
        assert tracker.finish("FINISHED", timeout_s=120) == 0
        assert_has_everything(uri, tracker.mlflow_run_id)
        assert curve(uri, tracker.mlflow_run_id) == expected_curve(1100)
        # As if the process had died before it could note how far it had come.
        (folder / "tracking" / "delivered.json").unlink()


def test_a_resumed_run_goes_on_in_the_same_curves(database, tmp_path):
    folder = run_folder(tmp_path)
    first = Tracker(database, "resumed", folder)
    log_steps(first, range(10))
    assert first.finish("KILLED") == 0
    second = Tracker(database, "resumed", folder)
    second.set_status("RUNNING")
    log_steps(second, range(6, 20))
    assert second.finish(None) == 0
    assert second.mlflow_run_id == first.mlflow_run_id
    assert curve(database, first.mlflow_run_id) == expected_curve(20)
    assert client(database).get_run(first.mlflow_run_id).info.status == "RUNNING"


def test_a_run_whose_creation_was_not_noted_is_found_again(database, tmp_path):
    folder = run_folder(tmp_path)
    first = Tracker(database, "found", folder)
    assert first.finish("FINISHED") == 0
    target = folder / "tracking" / "target.json"
    target.write_text(json.dumps({**json.loads(target.read_text()), "run_id": None}))
    second = Tracker(database, "found", folder)
    assert second.finish("FINISHED") == 0
    assert second.mlflow_run_id == first.mlflow_run_id


def test_two_runs_of_one_name_are_two_runs(database, tmp_path):
    ids = set()
    for home in ("a", "b"):
        (tmp_path / home).mkdir()
        tracker = Tracker(database, "names", run_folder(tmp_path / home))
        assert tracker.finish("FINISHED") == 0
        ids.add(tracker.mlflow_run_id)
    assert len(ids) == 2


def test_another_store_gets_every_point_from_the_first_on(database, server, tmp_path, caplog):
    folder = run_folder(tmp_path)
    first = Tracker(database, "moved", folder)
    log_steps(first, range(10))
    assert first.finish("FINISHED") == 0
    second = Tracker(server.uri, "moved", folder)
    log_steps(second, range(10, 20))
    assert second.finish("FINISHED", timeout_s=120) == 0
    assert curve(server.uri, second.mlflow_run_id) == expected_curve(20)
    assert caplog.text.count(f"in {database} before, and is in {server.uri} from now on") == 1


LOST = {
    "uri": lambda target: target.pop("uri"),
    "experiment": lambda target: target.update(experiment=None),
    "tracking_id": lambda target: target.update(tracking_id="nobody's"),
    "run_id": lambda target: target.update(run_id=3),
}


@pytest.mark.parametrize("key", LOST)
def test_a_damaged_target_is_refused_and_without_it_the_run_is_a_new_one(database, tmp_path, key):
    folder = run_folder(tmp_path)
    first = Tracker(database, "lost", folder)
    log_steps(first, range(10))
    assert first.finish("FINISHED") == 0
    target = folder / "tracking" / "target.json"
    content = json.loads(target.read_text())
    LOST[key](content)
    target.write_text(json.dumps(content))
    with pytest.raises(BadInputError, match=rf"target\.json: {key} is .*remove it") as error:
        Tracker(database, "lost", folder)
    assert "\n" not in str(error.value)
    target.unlink()
    second = Tracker(database, "lost", folder)
    log_steps(second, range(10, 20))
    assert second.finish("FINISHED") == 0
    assert second.mlflow_run_id != first.mlflow_run_id
    assert curve(database, second.mlflow_run_id) == expected_curve(20)
    assert curve(database, first.mlflow_run_id) == expected_curve(10)


@pytest.mark.parametrize("content", ["{", "[]", '{"offset": "7"}', '{"offset": -7}', "{}"])
def test_a_damaged_mark_of_what_was_sent_costs_nothing_but_sending_it_again(
    database, tmp_path, content
):
    folder = run_folder(tmp_path)
    first = Tracker(database, "marks", folder)
    log_steps(first, range(10))
    assert first.finish("FINISHED") == 0
    (folder / "tracking" / "delivered.json").write_text(content)
    second = Tracker(database, "marks", folder)
    assert second.finish("FINISHED") == 0
    assert curve(database, first.mlflow_run_id) == expected_curve(10)


@pytest.mark.parametrize("num_bytes", [1, 10, 300])
def test_a_log_that_became_shorter_has_what_is_added_to_it_sent(database, tmp_path, num_bytes):
    folder = run_folder(tmp_path)
    first = Tracker(database, "shorter", folder)
    log_steps(first, range(10))
    assert first.finish("FINISHED") == 0
    log = folder / "tracking" / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-num_bytes])
    second = Tracker(database, "shorter", folder)
    log_steps(second, range(10, 20))
    assert second.finish("FINISHED") == 0
    assert curve(database, first.mlflow_run_id) == expected_curve(20)


@pytest.mark.parametrize("content", ["{}", "[]", '{"steps": {"train/loss": "4"}}', '{"steps": 4}'])
def test_what_a_fetched_run_has_in_mlflow_is_not_sent_again_whatever_came_in_between(
    database, server, tmp_path, content
):
    folder = run_folder(tmp_path)
    first = Tracker(database, "fetched", folder)
    log_steps(first, range(5))
    assert first.finish("FINISHED") == 0
    # As a copy that was made before the first point, fetched and gone on with.
    (folder / "tracking" / "metrics.jsonl").unlink()
    (folder / "tracking" / "delivered.json").unlink()
    (folder / "tracking" / "fetched.json").write_text(content)
    for uri, last in ((database, 7), (server.uri, 9), (database, 11)):
        tracker = Tracker(uri, "fetched", folder)
        log_steps(tracker, range(last))
        assert tracker.finish("FINISHED", timeout_s=120) == 0
        assert curve(uri, tracker.mlflow_run_id) == expected_curve(last)
    assert tracker.mlflow_run_id == first.mlflow_run_id


SECRET = "http://user:p@ss/word@127.0.0.1:9/path"


def test_a_password_is_neither_logged_nor_kept(tmp_path, caplog):
    folder = run_folder(tmp_path)
    (folder / "init.safetensors").write_bytes(b"parameters")
    # The long one is cut in the middle of the password, had it not been redacted before.
    config = {"tracking": {"uri": SECRET, "others": [SECRET]}, "long": "x" * 5980 + SECRET}
    tracker = Tracker(SECRET, "secret", folder)
    tracker.log_params(config)
    tracker.set_tags({"from": SECRET})
    profile = {"mirror": SECRET, "others": [{"mirror": SECRET}], "tasks": 20}
    tracker.log_dataset("omniglot", "ab", SECRET, "training", profile)
    tracker.log_model("init", 1, [folder / "init.safetensors"], config)
    assert tracker.finish("FINISHED", timeout_s=60) == 5
    kept = "".join(p.read_text() for p in (folder / "tracking").rglob("*") if p.is_file())
    assert "127.0.0.1:9" in caplog.text
    # The server, three parameters of the run and of the model, a tag, a source and its profile.
    assert kept.count("://***@127.0.0.1") == 11
    assert '"tasks": 20' in kept
    assert "ss/wor" not in caplog.text + kept
    assert "user" not in caplog.text + kept


def test_a_value_that_is_no_address_is_kept_as_it_is(database, tmp_path):
    tracker = Tracker(database, "kept", run_folder(tmp_path))
    values = {"path": "/data/key=3/a@b", "files": "me:you@there"}
    tracker.log_params(values)
    tracker.set_tags(values)
    assert tracker.finish("FINISHED") == 0
    run = client(database).get_run(tracker.mlflow_run_id)
    assert run.data.params == values
    assert values.items() <= run.data.tags.items()


def test_names_that_mlflow_would_refuse_do_not_hold_up_the_others(database, tmp_path):
    tracker = Tracker(database, "names", run_folder(tmp_path))
    tracker.log_metrics(0, {"eval/Japanese_(hiragana)/auc": 0.5, "//a/../b": 1.0, "fine": 2.0})
    tracker.log_metrics(0, {"k" * 300: 3.0})
    assert tracker.finish("FINISHED") == 0
    assert client(database).get_run(tracker.mlflow_run_id).data.metrics == {
        "eval/Japanese__hiragana_/auc": 0.5,
        "a/b": 1.0,
        "fine": 2.0,
        "k" * 250: 3.0,
    }


def test_a_parameter_keeps_its_first_value(database, tmp_path, caplog):
    folder = run_folder(tmp_path)
    for steps in (10, 20):
        tracker = Tracker(database, "params", folder)
        tracker.log_params({"meta": {"num_steps": steps}, f"new {steps}": 1})
        assert tracker.finish("FINISHED") == 0
    params = client(database).get_run(tracker.mlflow_run_id).data.params
    assert params == {"meta.num_steps": "10", "new 10": "1", "new 20": "1"}
    assert "MLflow keeps the first value of parameters: meta.num_steps" in caplog.text


def test_an_artifact_that_is_gone_is_named_and_does_not_hold_up_the_others(
    database, tmp_path, caplog
):
    folder = run_folder(tmp_path)
    tracker = Tracker(database, "gone", folder)
    tracker.log_artifact(folder / "gone.png")
    tracker.set_tags({"after": "it"})
    assert tracker.finish("FINISHED") == 0
    assert client(database).get_run(tracker.mlflow_run_id).data.tags["after"] == "it"
    assert f"{folder / 'gone.png'} is no longer there" in caplog.text


def test_what_mlflow_refuses_stays_and_the_rest_goes(database, tmp_path, caplog):
    tracker = Tracker(database, "refused", run_folder(tmp_path))
    tracker.set_tags({"": "a tag has to have a name"})
    tracker.set_tags({"after": "it"})
    assert tracker.finish("FINISHED") == 1
    assert client(database).get_run(tracker.mlflow_run_id).data.tags["after"] == "it"
    assert caplog.text.count("refuses 00000000-tags.json") == 1
    assert "has not taken 0 metric points and 1 other items" in caplog.text


def test_a_model_file_that_is_gone_does_not_hold_up_the_others(database, tmp_path, caplog):
    folder = run_folder(tmp_path)
    tracker = Tracker(database, "gone", folder)
    tracker.log_model("init", 1, [folder / "gone.safetensors"], {})
    tracker.set_tags({"after": "it"})
    assert tracker.finish("FINISHED") == 0
    assert client(database).get_run(tracker.mlflow_run_id).data.tags["after"] == "it"
    assert "gone.safetensors is no longer there" in caplog.text
    assert count_items(folder / "tracking" / "pending") == 0


def test_where_to_track(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking_uri("", tmp_path / "runs") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert tracking_uri("", tmp_path) == "http://tracker:5000"
    assert tracking_uri("sqlite:///here.db", tmp_path) == f"sqlite:///{tmp_path}/here.db"


def test_a_database_whose_driver_is_there_is_taken_as_it_is(tmp_path):
    pytest.importorskip("psycopg2")
    uri = "postgresql+psycopg2://host/db"
    assert tracking_uri(uri, tmp_path) == uri


@pytest.mark.parametrize(
    ("uri", "driver", "package"),
    [
        ("postgresql+psycopg2://me:pw@host/db", "psycopg2", "psycopg2-binary"),
        ("postgresql+psycopg://me:pw@host/db", "psycopg", "psycopg[binary]"),
        ("mysql://me:pw@host/db", "MySQLdb", "mysqlclient"),
        ("mysql+pymysql://me:pw@host/db", "pymysql", "pymysql"),
        ("mssql://me:pw@host/db", "pyodbc", "pyodbc"),
    ],
)
def test_a_database_whose_driver_is_missing_names_what_to_install(
    tmp_path, monkeypatch, uri, driver, package
):
    monkeypatch.setitem(sys.modules, driver, None)  # cannot be imported, wherever tests run
    with pytest.raises(BadInputError) as bad:
        tracking_uri(uri, tmp_path)
    said = f"its driver {driver} is not installed here; pip install '{package}'"
    assert said in str(bad.value)
    assert "pw" not in str(bad.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://", "names no server"),
        ("http://host:port", "names no server"),
        ("https://[::1", "names no server"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:////tmp", "names no file"),
        ("sqlite:////tmp/x.db?timeout=30", r"holds '\?' or '%'"),
        ("sqlite:////tmp/x%20y.db", r"holds '\?' or '%'"),
        ("mysql+foo://host/db", "is no address of a database with a driver"),
        ("postgresql://me:pw:pw@host:x/db", "is no address of a database with a driver"),
        ("mysql+a+b://host/db", "is no address of a database with a driver"),
    ],
)
def test_an_address_that_can_never_answer_is_refused_at_once(tmp_path, uri, said):
    with pytest.raises(BadInputError, match=said) as bad:
        tracking_uri(uri, tmp_path)
    assert "pw" not in str(bad.value)
    assert "\n" not in str(bad.value)


@pytest.mark.parametrize("name", ["a?b", "a%20b"])
def test_a_home_whose_path_is_no_part_of_an_address_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(BadInputError, match=r"MLflow's database cannot lie.* set OUTERLOOP_HOME"):
        tracking_uri("", tmp_path / name)
    assert tracking_uri("http://tracker:5000", tmp_path / name) == "http://tracker:5000"


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "ftp://me:pw@host", "localhost"])
def test_an_address_that_is_none_is_refused_in_one_line(tmp_path, uri):
    with pytest.raises(BadInputError, match=r"tracking.uri '.*': expected an MLflow server") as bad:
        tracking_uri(uri, tmp_path)
    assert "pw" not in str(bad.value)
    assert "\n" not in str(bad.value)
