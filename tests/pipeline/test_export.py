"""The exported folder stands alone, and its card says what its figures depend on."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from algorithms.parameters import learned_parameters
from pipeline import session
from pipeline.checkpoint import CheckpointStore
from pipeline.errors import BadInputError
from pipeline.estimator import load
from pipeline.evaluation import Evaluation
from pipeline.export import export_run, read_exported
from pipeline.messages import TaskSpec
from pipeline.model_card import model_card
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from pipeline.workers import make_worker
from tests.pipeline.episodes_for_tests import tiny_episodes
from tests.pipeline.evaluations_for_tests import run_of
from tests.pipeline.runs_for_tests import tiny


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def train(experiment):
    return RunFolder.open(session.train(experiment, SilentProgress()).run_id)


def test_a_model_of_ones_own_pictures_is_tested_and_loaded_from_elsewhere(home, monkeypatch):
    """As for the backbone: a learner of all classes, which has as many outputs as they."""
    generator = np.random.default_rng(0)
    for number in range(10):
        (home / "pictures" / str(number)).mkdir(parents=True)
        for which in range(4):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / "pictures" / str(number) / f"{which}.png")
    monkeypatch.chdir(home)
    monkeypatch.setenv("OUTERLOOP_CACHE", str(home / "cache"))
    run = train(
        tiny_episodes(
            algorithm={"name": "classifier"},
            data={"name": "folder:pictures"},
            task={"kind": "episodes", "batch_size": 8},
            episodes={"num_ways": 2, "num_queries": 2, "num_test": 4},
            meta={"num_steps": 1, "batch_size": 2},
            evaluation={"baselines": []},
        )
    )
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    session.evaluate(run, (), SilentProgress())
    about = export_run(run, home / "model")
    shutil.rmtree(home / "pictures")
    shutil.rmtree(home / "cache")
    model = load(home / "model")
    assert (
        read_exported(home / "model").num_outputs == about["num_outputs"] == 6
    )  # 10, less 2 and 2 held out
    images = generator.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    assert model.fit(images, ["a", "b", "a", "b"]).predict(images).shape == (4,)


def test_an_output_layer_of_a_training_task_is_not_exported(home):
    """Finetuning has one for each training task; a new task starts from a random one."""
    experiment = tiny(algorithm={"name": "finetune"}, evaluation={"baselines": []})
    run = train(experiment)
    checkpoint = CheckpointStore(run.checkpoints, keep=2).load_latest()
    worker = make_worker(experiment)
    step, body = checkpoint.step, worker.layout.body
    worker.prepare(TaskSpec(step, 0, 0, "test", 0, 0, "evaluate", "finetune"), [checkpoint.params])
    expected = worker.vector.values.numpy()

    export_run(run, home / "model")
    model = read_exported(home / "model").model
    exported = np.concatenate([p.detach().numpy().ravel() for _, p in learned_parameters(model)])
    np.testing.assert_array_equal(exported[:body], checkpoint.params[:body])
    heads = checkpoint.params[body:].reshape(-1, worker.layout.head)
    assert not (heads == exported[body:]).all(axis=1).any()
    np.testing.assert_array_equal(exported, expected)  # as the first held-out task starts


def test_a_description_without_sizes_is_refused(home):
    run = train(tiny_episodes(meta={"num_steps": 1, "batch_size": 2}))
    export_run(run, home / "model")
    path = home / "model" / "model.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in about.items() if k != "num_outputs"}))
    with pytest.raises(BadInputError, match=r"model\.json: has no 'num_outputs'; export the run"):
        load(home / "model")
    path.write_text(json.dumps(about | {"num_outputs": "three"}))
    with pytest.raises(BadInputError, match=r"model\.json: sizes: "):
        load(home / "model")
    for absurd in (10**12, 0, -1):
        path.write_text(json.dumps(about | {"num_outputs": absurd}))
        with pytest.raises(BadInputError, match=r"model\.json: num_outputs is .* not what its"):
            load(home / "model")


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "config.yaml"])
def test_a_pipe_in_a_model_is_not_waited_for(home, name):
    run = train(tiny_episodes(meta={"num_steps": 1, "batch_size": 2}))
    export_run(run, home / "model")
    (home / "model" / name).unlink()
    os.mkfifo(home / "model" / name)
    with pytest.raises(BadInputError, match=rf"{name}: .*is no file"):
        load(home / "model")


def card(outer_step=3, **sections):
    experiment = tiny_episodes(**sections)
    return model_card(RunFolder.create(experiment), experiment, outer_step).splitlines()


def test_a_card_says_what_its_figures_depend_on():
    lines = card(
        algorithm={"name": "maml"},
        episodes={"num_ways": 3, "num_shots": 2, "num_queries": 4, "rotations": True},
    )
    for line in (
        "- tasks: glyphs, 3-way 2-shot",
        "- 4 queries a class",
        "- classes: split standard, rotated ones too",
        "- answered together (transductive)",
        "- training images not augmented",
    ):
        assert line in lines
    together = "It answers the queries of one `predict` together"
    assert any(line.startswith(together) for line in lines)
    assert not any(line.startswith(together) for line in card())
    assert "- answered one by one" in card()


def test_a_card_of_sinusoids_names_no_data_set():
    lines = card(
        algorithm={"name": "maml"},
        data={"name": "omniglot"},
        task={"kind": "sinusoids"},
        model={"encoder": "perceptron"},
    )
    assert "- tasks: sinusoids, 1-shot" in lines
    assert not any("omniglot" in line for line in lines)


def test_a_card_has_no_figures_of_other_parameters():
    experiment = tiny()
    run = RunFolder.create(experiment)
    none = f"None of outer step 3 yet: `outerloop evaluate {run.run_id}` makes one."
    assert none in model_card(run, experiment, 3)
    for step in (2, 3):
        replace(run_of("leap", run.run_id), outer_step=step).to_parquet(run.evaluation)
        assert Evaluation.from_parquet(run.evaluation).outer_step == step
        text = model_card(run, experiment, 3)
        assert ("| leap | accuracy | 0.5000 | ± 0.0000 | 3 |" in text) == (step == 3)
        assert (none in text) == (step == 2)
