"""A real MLflow server that can be killed, and what is in a store."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from pipeline.config import to_yaml
from tests.pipeline.runs_for_tests import tiny
from tests.processes import wait_until

MODEL_FILES = ("model.safetensors", "config.yaml", "model.json")


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


def run_folder(tmp_path, name="run-1"):
    folder = tmp_path / name
    folder.mkdir()
    return folder


def model_files(folder):
    """Write what tells of an exported model of sinusoids, and no weights worth the name."""
    about = {
        "format_version": 1,
        "weights_sha256": "",
        "preparation": {"image_size": 0, "channels": 1, "mean": [0], "std": [1]},
        "num_outputs": 1,
    }
    contents = (b"parameters", to_yaml(tiny()).encode(), json.dumps(about).encode())
    for name, content in zip(MODEL_FILES, contents, strict=True):
        (folder / name).write_bytes(content)
    return [folder / name for name in MODEL_FILES]


def log_everything(tracker, folder):
    (folder / "plot.png").write_bytes(b"picture")
    model = model_files(folder)
    tracker.log_params({"seed": 0, "inner": {"lr": 0.1, "name": ""}, "long": "x" * 9000})
    tracker.log_params({"many": {str(i): i for i in range(250)}})
    tracker.set_tags({"outerloop.algorithm": "leap"})
    tracker.log_artifact(folder / "plot.png", "plots")
    tracker.log_dataset("omniglot", "ab" * 32, "/data/omniglot", "training", {"num_tasks": 20})
    tracker.log_model("init", 12, model, {"parameters": 100})


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
    assert {"data", "MLmodel", "input_example.json"} < files
    kept = client(uri).list_logged_model_artifacts(model.model_id, "data/exported")
    assert {Path(file.path).name for file in kept} == set(MODEL_FILES)
