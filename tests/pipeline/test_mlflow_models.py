"""What MLflow loads of a run's model predicts as the export does; and its place in the registry."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline import session
from pipeline.errors import BadInputError, RunFailedError
from pipeline.estimator import load
from pipeline.export import export_run
from pipeline.model_registry import register_model
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from tests.pipeline.environments_for_tests import control
from tests.pipeline.episodes_for_tests import tiny_episodes
from tests.pipeline.mlflow_for_tests import client
from tests.pipeline.runs_for_tests import tiny

SHORT = {"num_steps": 1, "batch_size": 2}
SINUSOIDS = {
    "task": {"kind": "sinusoids"},
    "model": {"encoder": "perceptron"},
    "algorithm": {"name": "maml"},
    "episodes": {"num_test": 2, "num_val": 2},
    "inner": {"precision": "float32"},
    "evaluation": {"num_steps": 2, "baselines": []},
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "runs"))
    return tmp_path


def trained(experiment, database) -> RunFolder:
    tracking = experiment.tracking.model_copy(update={"uri": database})
    tracked = experiment.model_copy(update={"tracking": tracking})
    return RunFolder(session.train(tracked, SilentProgress()).run_dir)


def opened(run: RunFolder, name: str, database):
    from mlflow import pyfunc, set_registry_uri, set_tracking_uri

    found = register_model(run, name)
    set_tracking_uri(database)
    set_registry_uri(database)
    return found, pyfunc.load_model(f"models:/{name}/{found.version}")


@pytest.mark.parametrize(
    "experiment",
    [
        tiny(meta=SHORT),
        tiny_episodes(meta=SHORT),
        tiny(meta=SHORT, **SINUSOIDS),
    ],
    ids=["leap", "prototypical", "sinusoids"],
)
def test_a_registered_model_predicts_from_support_and_query_as_its_export(
    home, database, experiment
):
    run = trained(experiment, database)
    _, model = opened(run, f"like-{experiment.algorithm.name}", database)
    export_run(run, home / "model")
    same = load(home / "model")
    example = model.input_example
    assert set(example) == {"support_x", "support_y", "query_x"}
    generator = np.random.default_rng(0)
    task = {name: np.concatenate([values] * 3) for name, values in example.items()}
    if task["query_x"].dtype == np.uint8:
        noise = generator.integers(0, 256, task["query_x"].shape, dtype=np.uint8)
        task["query_x"] = noise
    for asked in (example, task):
        answer = model.predict(asked)
        same.fit(asked["support_x"], asked["support_y"])
        np.testing.assert_array_equal(answer, same.predict(asked["query_x"]))
        assert answer.shape == (len(asked["query_x"]), *asked["support_y"].shape[1:])


def test_a_model_is_registered_on_a_server_too_and_each_tells_of_the_other(server):
    run = trained(tiny_episodes(meta=SHORT), server.uri)
    found, model = opened(run, "served", server.uri)
    assert model.predict(model.input_example).shape == (2,)
    version = client(server.uri).get_model_version("served", found.version)
    logged = client(server.uri).get_logged_model(version.tags["outerloop.model_id"])
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": "served", "version": "1"}]
    assert version.run_id == logged.source_run_id


def test_a_call_that_does_not_fit_the_signature_is_refused(database):
    run = trained(tiny(meta=SHORT, **SINUSOIDS), database)
    _, model = opened(run, "signed", database)
    example = model.input_example
    with pytest.raises(Exception, match="support_y"):
        model.predict({key: example[key] for key in ("support_x", "query_x")})
    with pytest.raises(Exception, match="shape"):
        model.predict(example | {"query_x": np.zeros((2, 7), np.float32)})


def test_a_model_becomes_one_version_and_that_of_a_longer_run_the_next(database):
    run = trained(tiny(meta=SHORT), database)
    versions = [register_model(run, "longer") for _ in range(2)]
    assert [(v.version, v.outer_step) for v in versions] == [("1", 1), ("1", 1)]
    session.resume(run, ["meta.num_steps=2"], SilentProgress())
    longer = register_model(run, "longer")
    assert (longer.version, longer.outer_step) == ("2", 2)
    assert len(client(database).search_model_versions("name = 'longer'")) == 2


def test_an_agent_is_registered_as_its_files(database):
    run = trained(control(meta=SHORT), database)
    found = register_model(run, "agent")
    version = client(database).get_model_version("agent", found.version)
    model_id = version.tags["outerloop.model_id"]
    files = client(database).list_logged_model_artifacts(model_id, "data/exported")
    assert {file.path.rpartition("/")[2] for file in files} >= {"model.safetensors", "model.json"}


def test_a_run_whose_model_is_not_in_mlflow_is_told_how_it_gets_there(database, home):
    run = RunFolder.create(tiny(tracking={"uri": database}))
    with pytest.raises(BadInputError, match=r"has no model of run .*outerloop sync"):
        register_model(run, "absent")
    run = RunFolder.create(tiny(tracking={"uri": f"sqlite:///{home}/never.db"}))
    with pytest.raises(BadInputError, match="has no model of run"):
        register_model(run, "absent")
    assert not (home / "never.db").exists()


def test_a_name_that_mlflow_refuses_is_told_in_one_line(database):
    run = trained(tiny(meta=SHORT), database)
    with pytest.raises((BadInputError, RunFailedError), match="model 'a/b': ") as caught:
        register_model(run, "a/b")
    assert isinstance(caught.value, BadInputError)
    assert "\n" not in str(caught.value)
