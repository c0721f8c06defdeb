import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from pipeline import delivery
from pipeline.delivery import Delivery, back_off_s, deliver_until, redact
from pipeline.errors import BadInputError
from pipeline.mlflow_run import is_refusal
from pipeline.outbox import Outbox, count_items, pending_items
from pipeline.tracking import Tracker, tracking_uri
from tests.processes import kill_after, start, wait_until

LOGS_FOREVER = """
import sys, pathlib, time
from pipeline import delivery, tracking
delivery.DELIVER_EVERY_S = 0.02
run_folder = pathlib.Path(sys.argv[2])
tracker = tracking.Tracker(sys.argv[1], "killed", run_folder)
step = 0
while True:
    tracker.log_metrics(step, {"train/loss": step / 3, "outer/grad_norm": step / 7})
    step += 1
    if (run_folder / "tracking" / "delivered.json").exists():
        print(step, flush=True)
    time.sleep(0.001)
"""

RUNS_OUT_OF_DISK = """
import pathlib, resource, sys
from pipeline.errors import RunFailedError
from pipeline.tracking import Tracker
tracker = Tracker("http://127.0.0.1:9", "full", pathlib.Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    try:
        tracker.log_metrics(0, {"train/loss": 1.0})
    except RunFailedError as error:
        print(error)
        raise ZeroDivisionError("on its way out") from None
    finally:
        print(tracker.finish("FAILED", timeout_s=0.1))
except ZeroDivisionError as error:
    print(error)
"""


def client(uri):
    from mlflow import MlflowClient

    return MlflowClient(uri, registry_uri=uri)


def curve(uri, run_id, key="train/loss"):
    return [(m.step, m.value) for m in client(uri).get_metric_history(run_id, key)]


def expected_curve(num_steps):
    return [(step, step / 3) for step in range(num_steps)]


def log_steps(tracker, steps):
    for step in steps:
        tracker.log_metrics(step, {"train/loss": step / 3})


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A store that several tests share, as it takes seconds to set up."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def often(monkeypatch):
    """Deliver at once, and after a failure soon again."""
    monkeypatch.setattr(delivery, "DELIVER_EVERY_S", 0.02)
    monkeypatch.setattr(delivery, "MAX_BACK_OFF_S", 0.2)


class Server:
    """A real MLflow server, which can be killed and started again."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self.answers, timeout_s=120)

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as reply:
                return reply.status == 200
        except OSError:
            return False

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


def run_folder(tmp_path, name="run-1"):
    folder = tmp_path / name
    folder.mkdir()
    return folder


def log_everything(tracker, folder):
    (folder / "plot.png").write_bytes(b"picture")
    (folder / "init.safetensors").write_bytes(b"parameters")
    (folder / "config.json").write_text("{}")
    tracker.log_params({"seed": 0, "inner": {"lr": 0.1, "name": ""}, "long": "x" * 9000})
    tracker.log_params({"many": {str(i): i for i in range(250)}})
    tracker.set_tags({"outerloop.algorithm": "leap"})
    tracker.log_artifact(folder / "plot.png", "plots")
    tracker.log_dataset("omniglot", "ab" * 32, "/data/omniglot", "training", {"num_tasks": 20})
    tracker.log_model(
        "init", 12, [folder / "init.safetensors", folder / "config.json"], {"parameters": 100}
    )


def assert_has_everything(uri, run_id):
    run = client(uri).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run-1"
    assert run.data.params["inner.lr"] == "0.1"
    assert run.data.params["long"] == "x" * 6000
    assert [run.data.params[f"many.{i}"] for i in range(250)] == [str(i) for i in range(250)]
    assert run.data.tags["outerloop.algorithm"] == "leap"
    (plot,) = client(uri).list_artifacts(run_id, "plots")
    assert (plot.path, plot.file_size) == ("plots/plot.png", 7)
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("omniglot", "ab" * 18)
    assert json.loads(used.dataset.source) == {"uri": "/data/omniglot"}
    assert {tag.key: tag.value for tag in used.tags} == {"mlflow.data.context": "training"}
    (output,) = run.outputs.model_outputs
    assert output.step == 12
    (model,) = client(uri).search_logged_models([run.info.experiment_id])
    assert (model.name, model.model_id, str(model.status)) == ("init", output.model_id, "READY")
    files = {file.path for file in client(uri).list_logged_model_artifacts(model.model_id)}
    assert files == {"init.safetensors", "config.json", "MLmodel"}


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


def test_another_store_gets_every_point_from_the_first_on(database, server, tmp_path):
    folder = run_folder(tmp_path)
    first = Tracker(database, "moved", folder)
    log_steps(first, range(10))
    assert first.finish("FINISHED") == 0
    second = Tracker(server.uri, "moved", folder)
    log_steps(second, range(10, 20))
    assert second.finish("FINISHED", timeout_s=120) == 0
    assert curve(server.uri, second.mlflow_run_id) == expected_curve(20)


@pytest.mark.parametrize("delay_s", [0.0, 0.05])
def test_a_tracker_killed_while_it_sends_loses_and_doubles_nothing(database, tmp_path, delay_s):
    folder = run_folder(tmp_path)
    logged = int(kill_after(30, delay_s, LOGS_FOREVER, database, folder)[-1])
    tracker = Tracker(database, "killed", folder)
    log_steps(tracker, range(logged + 10))
    assert tracker.finish("FINISHED") == 0
    found = curve(database, tracker.mlflow_run_id)
    assert found == expected_curve(len(found))
    assert len(found) >= logged + 10


@pytest.mark.usefixtures("often")
def test_a_server_that_is_killed_and_comes_back_has_each_point_once(server, tmp_path, caplog):
    folder = run_folder(tmp_path)
    tracker = Tracker(server.uri, "server killed", folder)
    delivered = folder / "tracking" / "delivered.json"
    log_steps(tracker, range(100))
    wait_until(delivered.exists)
    # Some points are on their way while the server dies.
    log_steps(tracker, range(100, 2000))
    server.kill()
    log_steps(tracker, range(2000, 2500))
    wait_until(lambda: "training goes on" in caplog.text)
    server.start()
    log_steps(tracker, range(2500, 3000))
    size = (folder / "tracking" / "metrics.jsonl").stat().st_size
    wait_until(lambda: json.loads(delivered.read_text())["offset"] == size)
    assert tracker.finish("FINISHED") == 0
    assert curve(server.uri, tracker.mlflow_run_id) == expected_curve(3000)


def test_training_goes_on_without_a_server_and_all_is_delivered_later(
    server, tmp_path, caplog, often
):
    with socket.socket() as nobody:  # bound, not listening: every connection is refused
        nobody.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        folder = run_folder(tmp_path)
        start = time.monotonic()
        tracker = Tracker(away, "away", folder)
        log_everything(tracker, folder)
        log_steps(tracker, range(500))
        assert time.monotonic() - start < 10
        assert tracker.mlflow_run_id is None
        undelivered = tracker.finish("FINISHED", timeout_s=60)
    assert undelivered == 507
    assert "has not taken 500 metric points and 7 other items yet" in caplog.text
    # A resumed run removes old checkpoints, and the model's files with them.
    (folder / "init.safetensors").unlink()
    (folder / "config.json").unlink()
    later = Tracker(server.uri, "away", folder)
    assert later.finish(None, timeout_s=120) == 0
    assert curve(server.uri, later.mlflow_run_id) == expected_curve(500)
    assert_has_everything(server.uri, later.mlflow_run_id)
    assert list((folder / "tracking" / "pending").iterdir()) == []


def test_a_server_that_never_answers_does_not_hold_up_the_end(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        tracker = Tracker(
            f"http://127.0.0.1:{silent.getsockname()[1]}", "silent", run_folder(tmp_path)
        )
        log_steps(tracker, range(5))
        start = time.monotonic()
        assert tracker.finish("FINISHED", timeout_s=0.5) == 6
        assert time.monotonic() - start < 5


def test_ctrl_c_ends_the_wait_for_a_server_that_never_answers(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        tracker = Tracker(
            f"http://127.0.0.1:{silent.getsockname()[1]}", "silent", run_folder(tmp_path)
        )
        log_steps(tracker, range(5))
        ctrl_c = threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT])
        ctrl_c.start()
        start = time.monotonic()
        try:
            undelivered = tracker.finish("KILLED", timeout_s=15)
        except KeyboardInterrupt:
            pytest.fail("it goes on out of finish")
        assert undelivered == 6
        assert time.monotonic() - start < 10


def test_a_full_disk_at_the_end_is_a_warning_and_replaces_no_error(tmp_path):
    process = start(RUNS_OUT_OF_DISK, run_folder(tmp_path))
    output, warnings = process.communicate()
    first, undelivered, last = output.splitlines()
    assert "cannot be written: File too large" in first
    assert (undelivered, last) == ("0", "on its way out")
    # The status, and the point that its log still tried to write.
    assert warnings.count("cannot be written: File too large; make room") == 2
    assert "Traceback" not in warnings


def test_a_folder_that_is_gone_at_the_end_is_a_warning(tmp_path, caplog):
    folder = run_folder(tmp_path)
    tracker = Tracker("http://127.0.0.1:9", "gone", folder)
    shutil.rmtree(folder / "tracking")
    (folder / "tracking").write_text("in its place")
    assert tracker.finish("FAILED", timeout_s=60) == 0
    assert f"tracking in {folder}: cannot be written: Not a directory" in caplog.text


SECRET = "http://user:p@ss/word@127.0.0.1:9/path"


def test_a_password_is_neither_logged_nor_kept(tmp_path, caplog):
    folder = run_folder(tmp_path)
    (folder / "init.safetensors").write_bytes(b"parameters")
    # The long one is cut in the middle of the password, had it not been redacted before.
    config = {"tracking": {"uri": SECRET, "others": [SECRET]}, "long": "x" * 5980 + SECRET}
    tracker = Tracker(SECRET, "secret", folder)
    tracker.log_params(config)
    tracker.set_tags({"from": SECRET})
    tracker.log_dataset("omniglot", "ab", SECRET, "training", {})
    tracker.log_model("init", 1, [folder / "init.safetensors"], config)
    assert tracker.finish("FINISHED", timeout_s=60) == 5
    kept = "".join(p.read_text() for p in (folder / "tracking").rglob("*") if p.is_file())
    assert "127.0.0.1:9" in caplog.text
    # The server, three parameters of the run and of the model, a tag and a source.
    assert kept.count("://***@127.0.0.1") == 9
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:pw@host/db", "postgresql://***@host/db"),
        ("mysql+pymysql://me:p@w@host/db?password=x", "mysql+pymysql://***@host/db?password=***"),
        ("https://token@host:5000/path", "https://***@host:5000/path"),
        ("https://host:5000/path", "https://host:5000/path"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("cannot reach http://me:pw@host: refused", "cannot reach http://***@host: refused"),
    ],
)
def test_passwords_are_redacted(text, shown):
    assert redact(text) == shown


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


class Turns(threading.Event):
    """Ends a delivery after `count` turns, and notes how long each would have waited."""

    def __init__(self, count):
        super().__init__()
        self.count = count
        self.waits = []

    def wait(self, timeout=None):
        self.waits.append(timeout)
        if len(self.waits) == self.count:
            self.set()
        return self.is_set()


class Unspeakable(BaseException):
    def __str__(self):
        raise RuntimeError("not even that")


class FailingDelivery:
    uri = "http://127.0.0.1:9"
    errors = (OSError("away"), Unspeakable(), SystemExit(1), KeyboardInterrupt(), RecursionError())

    def __init__(self):
        self.attempts = 0

    def deliver(self, with_refused=False):
        self.attempts += 1
        raise self.errors[self.attempts % len(self.errors)]


def test_thousands_of_failures_of_any_kind_do_not_end_the_delivery():
    turns, failing = Turns(5000), FailingDelivery()
    deliver_until(turns, failing)
    assert failing.attempts == 5001
    assert turns.waits[:5] == [10, 20, 40, 60, 60]
    assert set(turns.waits[5:]) == {60}


def test_the_back_off_is_soon_at_first_and_bounded_for_ever():
    assert [back_off_s(failures) for failures in (0, 1, 2, 1024, 10**9)] == [5, 10, 20, 60, 60]


def test_a_refused_item_does_not_make_the_curves_wait(database, tmp_path):
    delivering = Delivery(run_folder(tmp_path), database, "refused")
    Outbox(delivering.pending_folder).put("tags", {"": "a tag has to have a name"})
    turns = Turns(3)
    deliver_until(turns, delivering)
    assert turns.waits == [delivery.DELIVER_EVERY_S] * 3
    assert delivering.undelivered() == (0, 1)


def test_a_refused_item_is_tried_again_once_in_a_while_and_at_the_end(
    database, tmp_path, monkeypatch
):
    delivering = Delivery(run_folder(tmp_path), database, "refused")
    outbox = Outbox(delivering.pending_folder)
    for _ in range(2):
        outbox.put("tags", {"": "a tag has to have a name"})
    delivering.deliver()
    first, second = (item.file for item in pending_items(delivering.pending_folder))
    # What MLflow would take now shows when it is tried again.
    first.write_text(json.dumps({"kind": "tags", "content": {"first": "1"}}))
    delivering.deliver()
    assert delivering.undelivered() == (0, 2)
    delivering.deliver(with_refused=True)
    assert delivering.undelivered() == (0, 1)
    second.write_text(json.dumps({"kind": "tags", "content": {"second": "2"}}))
    monkeypatch.setattr(delivery, "REFUSED_AGAIN_AFTER_S", 0.0)
    delivering.deliver()
    assert delivering.undelivered() == (0, 0)


@pytest.mark.parametrize(
    ("status", "refused"), [(400, True), (413, True), (401, False), (429, False), (503, False)]
)
def test_what_is_about_the_item_alone_is_a_refusal(status, refused):
    from requests import HTTPError, Response

    response = Response()
    response.status_code = status
    assert is_refusal(HTTPError("of an upload", response=response)) == refused


def test_other_errors_are_no_refusals():
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    assert not is_refusal(MlflowException("who are you", error_code=PERMISSION_DENIED))
    assert not is_refusal(ConnectionError("away"))


@pytest.mark.parametrize("links", [True, False])
def test_an_item_holds_its_files_until_it_is_discarded(tmp_path, monkeypatch, links):
    def no_links(*_):
        raise OSError(errno.EXDEV, "another file system")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "step-000001" / "shard"
    path.parent.mkdir()
    path.write_bytes(b"parameters")
    outbox = Outbox(tmp_path / "pending")
    outbox.put("model", {"name": "init"}, [path])
    shutil.rmtree(path.parent)
    Outbox(tmp_path / "pending")  # as the next process does
    (item,) = pending_items(tmp_path / "pending")
    (held,) = item.content["files"]
    with open(held, "rb") as file:
        assert file.read() == b"parameters"
    assert held.endswith("/shard")
    item.discard()
    assert list((tmp_path / "pending").iterdir()) == []


def test_files_whose_item_was_not_put_or_was_half_removed_are_removed(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(b"parameters")
    pending = tmp_path / "pending"
    outbox = Outbox(pending)
    with pytest.raises(TypeError):
        outbox.put("model", {"not JSON": object()}, [path])
    assert list(pending.iterdir()) == []
    outbox.put("model", {}, [path])
    (pending / "00000000-model.json").unlink()
    Outbox(pending)
    assert list(pending.iterdir()) == []


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
    assert tracking_uri("mysql+pymysql://host/db", tmp_path) == "mysql+pymysql://host/db"


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "ftp://me:pw@host", "localhost"])
def test_an_address_that_is_none_is_refused_in_one_line(tmp_path, uri):
    with pytest.raises(BadInputError, match=r"tracking.uri '.*': expected an MLflow server") as bad:
        tracking_uri(uri, tmp_path)
    assert "pw" not in str(bad.value)
    assert "\n" not in str(bad.value)
