"""What a test of episodes must not mix: classes, statistics, splits, and validations cut short."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import torch

from pipeline import session
from pipeline.checkpoint import CheckpointStore
from pipeline.data import load_image_classes
from pipeline.errors import BadInputError, InterruptedRunError
from pipeline.local import LocalBackend
from pipeline.messages import TaskSpec
from pipeline.progress import SilentProgress
from pipeline.protocols import protocol_of
from pipeline.runs import RunFolder
from pipeline.tasks import task_family
from pipeline.workers import make_worker
from tests.pipeline.episodes_for_tests import tiny_episodes

VALIDATED = {
    "meta": {"num_steps": 4, "batch_size": 2},
    "checkpoint": {"every": 1, "keep": 2},
    "evaluation": {"every": 2, "baselines": []},
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def images_of(episodes):
    return {
        image.numpy().tobytes()
        for episode in episodes
        for image in torch.cat([episode.support_x, episode.query_x])
    }


def test_no_image_of_a_held_out_episode_is_in_a_training_class():
    family = task_family(tiny_episodes(), torch.device("cpu"))
    held_out = images_of(family.episode(part, i) for part in ("val", "test") for i in range(40))
    seen = images_of(episode for step in range(60) for episode in family.group(step, 0))
    assert len(seen) > 500
    assert not held_out & seen


class StopIn(SilentProgress):
    """Sends SIGINT when the phase `name` begins for the `number`-th time."""

    def __init__(self, name, number):
        self.name, self.left = name, number

    def phase(self, name, total):
        self.left -= name == self.name
        if name == self.name and not self.left:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", [1, 2])
def test_a_validation_that_was_interrupted_is_done_on_resume(home, number):
    whole = session.train(tiny_episodes(**VALIDATED), SilentProgress())
    with pytest.raises(InterruptedRunError):
        session.train(tiny_episodes(**VALIDATED), StopIn("validation", number))
    (name,) = {p.name for p in (home / "runs").glob("*-*")} - {whole.run_id}
    resumed = session.resume(RunFolder.open(name), (), SilentProgress())
    assert resumed.evaluation.outer_step == whole.evaluation.outer_step
    stores = [CheckpointStore(RunFolder.open(r).checkpoints, keep=2) for r in (name, whole.run_id)]
    assert stores[0].best() == stores[1].best()
    assert stores[0].newest_validation() == 4


def test_a_damaged_best_checkpoint_is_named_and_the_newest_tested(home, caplog):
    result = session.train(tiny_episodes(**VALIDATED), SilentProgress())
    run = RunFolder.open(result.run_id)
    store = CheckpointStore(run.checkpoints, keep=2)
    store.record_validation(3, 2.0)
    (shard,) = (run.checkpoints / "step-000003").glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    evaluation, _ = session.evaluate(run, (), SilentProgress())
    assert evaluation.outer_step == 4
    assert "the best by validation, is damaged" in caplog.text


def test_a_split_without_validation_classes_is_trained_and_tested_without(home):
    numbers = load_image_classes("glyphs").classes
    split = {"train": [c.name for c in numbers[:60]], "test": [c.name for c in numbers[60:80]]}
    path = home / "split.json"
    path.write_text(json.dumps(split | {"val": []}))
    episodes = {"num_ways": 3, "num_queries": 3, "num_test": 6, "split": str(path)}
    result = session.train(tiny_episodes(**VALIDATED | {"episodes": episodes}), SilentProgress())
    assert result.evaluation.outer_step == 4


def test_the_protocol_tells_two_contents_of_a_split_file_apart(home):
    names = [c.name for c in load_image_classes("glyphs").classes]
    path = home / "split.json"
    episodes = {"num_ways": 3, "num_queries": 3, "split": str(path)}
    protocols = []
    for shift in (0, 5):
        parts = {"train": names[:60], "val": names[60:70], "test": names[70 + shift : 90 + shift]}
        path.write_text(json.dumps(parts))
        experiment = tiny_episodes(episodes=episodes)
        family = task_family(experiment, torch.device("cpu"))
        profile = family.profile("test")
        protocols.append(protocol_of(experiment, ["e"], family.dataset.digest, profile))
    assert protocols[0] != protocols[1]


def test_a_test_of_more_ways_leaves_the_batch_statistics_as_they_were(home, monkeypatch):
    result = session.train(tiny_episodes(meta=VALIDATED["meta"]), SilentProgress())
    found = []
    prepare = LocalBackend.__init__

    def seen(backend, experiment, start):
        found.append(experiment.episodes)
        prepare(backend, experiment, start)

    monkeypatch.setattr(LocalBackend, "__init__", seen)
    run = RunFolder.open(result.run_id)
    evaluation, _ = session.evaluate(run, (), SilentProgress(), ["episodes.num_ways=6"])
    (episodes,) = found
    assert (episodes.num_ways, episodes.train_num_ways, episodes.train_num_shots) == (6, 3, 1)
    assert np.isfinite([curve.metrics["loss"] for curve in evaluation.curves]).all()


def test_an_untrained_network_is_one_for_all_episodes():
    experiment = tiny_episodes()
    worker = make_worker(experiment)
    specs = [TaskSpec(0, i, i, "test", 0, 0, "evaluate", "scratch") for i in (0, 5)]
    states = []
    for spec in specs:
        worker.prepare(spec, [worker.vector.values.numpy()])
        states.append(worker.vector.values.clone())
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"algorithm": {"name": "reptile"}, "episodes": {"test": "one-shot-runs"}},
            "one-shot-runs need",
        ),
        (
            {"algorithm": {"name": "leap"}, "model": {"pretrained": "/nowhere"}},
            "leap trains its own encoder",
        ),
        (
            {"algorithm": {"name": "classifier"}, "task": {"kind": "episodes", "batch_size": 1}},
            "batch-norm needs at least 2 examples",
        ),
    ],
)
def test_what_does_not_fit_is_refused_for_every_family(sections, message):
    with pytest.raises(ValueError, match=message):
        tiny_episodes(**sections)


def test_a_minibatch_larger_than_the_data_is_refused():
    task = {"kind": "episodes", "batch_size": 60000}
    experiment = tiny_episodes(algorithm={"name": "classifier"}, task=task)
    with pytest.raises(BadInputError, match=r"task\.batch_size=60000: glyphs has \d+ images"):
        task_family(experiment, torch.device("cpu"))


def test_a_run_whose_split_file_has_changed_is_not_resumed(home):
    names = [c.name for c in load_image_classes("glyphs").classes]
    path = home / "split.json"
    parts = {"train": names[:60], "val": names[60:70], "test": names[70:90]}
    path.write_text(json.dumps(parts))
    episodes = {"num_ways": 3, "num_queries": 3, "num_test": 6, "split": str(path)}
    sections = {"meta": VALIDATED["meta"], "episodes": episodes}
    result = session.train(tiny_episodes(**sections), SilentProgress())
    path.write_text(json.dumps(parts | {"train": names[90:150]}))
    run = RunFolder.open(result.run_id)
    with pytest.raises(BadInputError, match="their split are not what it was trained on"):
        session.resume(run, ["meta.steps=5"], SilentProgress())
