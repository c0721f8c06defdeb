"""Runs on episodes: from the configuration to the table, in this process and on Ray."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from algorithms import InnerLoop
from pipeline import session
from pipeline.checkpoint import CheckpointStore
from pipeline.errors import BadInputError
from pipeline.estimator import NotFittedError, load
from pipeline.estimator_inputs import prepared
from pipeline.evaluation import Evaluation
from pipeline.export import export_run
from pipeline.exported_weights import encoder_weights
from pipeline.learners import inner_optimizer, is_transductive
from pipeline.local import LocalBackend
from pipeline.messages import TaskSpec
from pipeline.network import build_network
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from pipeline.server import Start
from pipeline.tasks import task_family
from pipeline.tasks.episode_task import EpisodeTask
from pipeline.tasks.shapes import Preparation
from pipeline.workers import make_worker
from tests.pipeline.episodes_for_tests import tiny_episodes
from tests.pipeline.runs_for_tests import make_trainer


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def train(**sections):
    return session.train(tiny_episodes(**sections), SilentProgress())


LEARNERS = {
    "prototypical": {},
    "matching": {},
    "siamese": {},
    "relation": {"model": {"num_filters": 4, "num_blocks": 2, "num_pooled_blocks": 1}},
    "maml": {},
    "memory": {},
    "conditional_process": {},
    "reptile": {"inner": {"num_steps": 3, "precision": "float32"}},
    "leap": {"inner": {"num_steps": 3, "precision": "float32"}},
    "fomaml": {"inner": {"num_steps": 3, "precision": "float32"}},
}


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ({"name": "maml"}, True),
        ({"name": "maml", "options": {"transductive": False}}, False),
        ({"name": "prototypical"}, False),
        ({"name": "sib"}, True),
        ({"name": "sib", "options": {"num_steps": 0}}, False),  # no step on the queries
        ({"name": "reptile"}, False),
    ],
)
def test_what_is_transductive_is_what_the_learner_does(algorithm, expected):
    needs = {"model": {"pretrained": "a-backbone"}} if algorithm["name"] == "sib" else {}
    assert is_transductive(tiny_episodes(algorithm=algorithm, **needs)) is expected


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_trains_and_is_tested(name, tmp_path):
    experiment = tiny_episodes(algorithm={"name": name}, **LEARNERS[name])
    trainer, books = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path)
    trainer.train(until=2)
    curves = trainer.meta_test([name], 6)
    assert [curve.task for curve in curves] == [f"episode-{i:06d}" for i in range(6)]
    assert all(0 <= curve.metrics["accuracy"] <= 1 for curve in curves)
    assert all(np.isfinite(curve.metrics["loss"]) for curve in curves)
    assert np.isfinite(books.metrics.points[-1][1]["train/loss"])


@pytest.mark.parametrize("name", ["maml", "conditional_process_regression"])
def test_sinusoids_are_regressed(name, tmp_path):
    experiment = tiny_episodes(
        algorithm={"name": name},
        task={"kind": "sinusoids"},
        model={"encoder": "perceptron"},
        episodes={"num_shots": 5, "num_queries": 5, "num_test": 3, "group": 1},
    )
    trainer, _ = make_trainer(experiment, LocalBackend(experiment, Start()), tmp_path)
    trainer.train(until=2)
    (curve, *_) = trainer.meta_test([name], 3)
    assert set(curve.metrics) == {"loss"}


def test_held_out_episodes_are_the_same_at_every_outer_step_and_share_no_class_with_training():
    family = task_family(tiny_episodes(), torch.device("cpu"))
    first, again, other = (family.episode("test", i) for i in (0, 0, 1))
    assert torch.equal(first.query_x, again.query_x)
    assert not torch.equal(first.query_x, other.query_x)
    train = [family.group(step, 0)[0].support_x for step in range(2)]
    assert not torch.equal(*train)


def test_a_run_validates_keeps_its_best_checkpoint_and_tests_that(home):
    result = train(
        meta={"num_steps": 6, "batch_size": 4}, checkpoint={"every": 1, "keep": 2},
        evaluation={"every": 1, "baselines": ["scratch"]},
    )  # fmt: skip
    run = RunFolder.open(result.run_id)
    from pipeline.metric_log import read_curve

    scores = dict(read_curve(run.metrics, "eval/val/accuracy"))
    assert sorted(scores) == [1, 2, 3, 4, 5, 6]
    best = CheckpointStore(run.checkpoints, keep=2).best()
    assert best.score == max(scores.values())
    assert scores[best.step] == best.score
    assert best.step == min(step for step, score in scores.items() if score == best.score)
    assert run.read_summary()["tested_outer_step"] == best.step
    assert result.evaluation.outer_step == best.step
    assert result.evaluation.learner["meta.num_steps"] == 6
    again, _ = session.evaluate(run, (), SilentProgress())
    own = [c.metrics for c in again.curves if c.method == "prototypical"]
    assert own == [c.metrics for c in result.evaluation.curves if c.method == "prototypical"]


def test_what_a_table_needs_is_on_record(home):
    evaluation = train(episodes={"num_ways": 3, "num_queries": 3, "num_test": 6}).evaluation
    read = Evaluation.from_parquet(RunFolder.open(evaluation.run_id).evaluation)
    assert read.protocol["episodes.num_ways"] == 3
    assert read.protocol["test_tasks"] == ["6 episodes"]
    assert read.protocol["episodes.split"] == "standard"
    assert read.learner["transductive"] is False
    assert read.summary()["prototypical"]["accuracy"]["tasks"] == 6


@pytest.mark.ray
def test_the_result_does_not_depend_on_the_workers_and_a_learner_may_come_from_outside(
    home, local_ray
):
    name = "tests.pipeline.episodes_for_tests:FirstPixels"
    runs = [
        train(algorithm={"name": name, "options": {"size": 3}}, workers={"count": count})
        for count in (0, 1, 2)
    ]
    assert len({run.parameters_sha256 for run in runs}) == 1
    accuracies = [run.evaluation.summary()[name]["accuracy"]["mean"] for run in runs]
    assert len(set(accuracies)) == 1


@pytest.mark.parametrize("name", ["prototypical", "maml", "reptile"])
def test_an_exported_model_answers_as_the_meta_test_did(home, name):
    options = {"inner": {"num_steps": 3, "precision": "float32"}}
    result = train(algorithm={"name": name}, **options)
    run = RunFolder.open(result.run_id)
    export_run(run, home / "model")
    model = load(home / "model")
    family = task_family(run.read_experiment(), torch.device("cpu"))
    episode = family.episode("test", 2)
    pixels = (episode.support_x.numpy(), episode.query_x.numpy())
    model.fit(pixels[0], np.array(["a", "b", "c"])[episode.support_y])
    assert model.classes_.tolist() == ["a", "b", "c"]
    right = model.predict(pixels[1]) == np.array(["a", "b", "c"])[episode.query_y]
    own = {c.task: c for c in result.evaluation.curves if c.method == name}
    expected = own["episode-000002"].metrics
    if name == "reptile":
        expected = adapted_by_hand(run, episode)
    assert right.mean() == pytest.approx(expected["accuracy"])
    belief = model.predict_proba(pixels[1])
    np.testing.assert_allclose(belief.sum(axis=1), 1, rtol=1e-5)
    loss = -np.log(belief[np.arange(len(belief)), episode.query_y]).mean()
    assert loss == pytest.approx(expected["loss"], rel=1e-4)


def adapted_by_hand(run, episode):
    """Metrics of an inner loop whose minibatches are drawn from the root seed alone."""
    experiment = run.read_experiment()
    checkpoint = CheckpointStore(run.checkpoints, keep=2).load_latest()
    model, vector = build_network(experiment)
    vector.load(checkpoint.params)
    size = experiment.task.batch_size
    task = EpisodeTask(episode, seed=experiment.seed, batch_size=size, transductive=False)
    num_steps = experiment.evaluation.num_steps
    InnerLoop(model, vector, task, inner_optimizer(experiment, num_steps)).run(num_steps)
    return task.evaluate(model)


def test_an_estimator_says_what_is_wrong(home):
    result = train()
    export_run(RunFolder.open(result.run_id), home / "model")
    model = load(home / "model")
    images, labels = np.zeros((3, 28, 28), np.uint8), [0, 1, 2]
    with pytest.raises(NotFittedError, match="call fit"):
        model.predict(images)
    with pytest.raises(ValueError, match="support_y: expected 3 labels"):
        model.fit(images, labels[:2])
    with pytest.raises(ValueError, match="support_y: expected one label"):
        model.fit(images, [0.5, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"support_x: expected images of 28 by 28 pixels"):
        model.fit(np.zeros((3, 20, 20), np.uint8), labels)
    with pytest.raises(ValueError, match=r"support_x: has values that are not finite"):
        model.fit(np.full((3, 28, 28), np.nan), labels)
    with pytest.raises(ValueError, match="unknown parameter"):
        model.set_params(depth=3)


def test_images_come_in_any_usual_form():
    grey = Preparation(image_size=2, channels=1, mean=(0.0,), std=(1.0,))
    pixels = np.array([[[0, 255], [51, 102]]], np.uint8)
    expected = torch.tensor([[[[0, 1], [0.2, 0.4]]]])
    for form in (pixels, pixels[..., None], pixels / 255, pixels[:, None] / 255):
        torch.testing.assert_close(prepared(form, grey, "x"), expected)


def test_a_folder_that_is_damaged_or_there_already_is_refused(home):
    run = RunFolder.open(train().run_id)
    export_run(run, home / "model")
    with pytest.raises(BadInputError, match="is there already"):
        export_run(run, home / "model")
    weights = home / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BadInputError, match=r"model\.safetensors: is damaged"):
        load(home / "model")
    with pytest.raises(BadInputError, match=r"model\.json: not found"):
        load(home)


def test_a_backbone_is_trained_on_all_classes_and_stays_as_it_is_under_sib(home):
    sizes = {"num_filters": 4, "num_blocks": 2, "num_pooled_blocks": 2}
    backbone = train(
        algorithm={"name": "classifier"}, task={"kind": "episodes", "batch_size": 16}, model=sizes
    )
    assert backbone.evaluation.summary()["classifier"]["accuracy"]["tasks"] == 6
    export_run(RunFolder.open(backbone.run_id), home / "backbone")
    pretrained = sizes | {"pretrained": str(home / "backbone")}
    other_split = tiny_episodes(algorithm={"name": "sib"}, model=pretrained, seed=1)
    with pytest.raises(BadInputError, match=r"was trained on \d+ of the classes for validation"):
        make_worker(other_split)
    experiment = tiny_episodes(algorithm={"name": "sib"}, model=pretrained)
    worker = make_worker(experiment)
    weights = encoder_weights(home / "backbone")
    spec = TaskSpec(0, 0, 0, "train", 0)
    assert all(torch.equal(weights[k], v) for k, v in worker.model.encoder.state_dict().items())
    encoder, parameters = worker.model.encoder, worker.vector.values.numpy().copy()
    images = worker.family.episode("test", 1).query_x
    (segment,) = worker.run(spec, [parameters])
    assert segment.finite
    # Each image is encoded once; from then on episodes are of features.
    features = worker.family.episode("test", 1).query_x
    torch.testing.assert_close(features, encoder.eval()(images).detach())
    assert not any(slot.name.startswith("encoder.") for slot in worker.vector.layout)
    assert train(algorithm={"name": "sib"}, model=pretrained).evaluation is not None


def test_minibatches_of_all_classes_have_labels_that_last():
    family = task_family(
        tiny_episodes(
            algorithm={"name": "classifier"}, task={"kind": "episodes", "batch_size": 64}
        ),
        torch.device("cpu"),
    )
    (first, second) = family.group(0, 0)
    assert first.num_ways == second.num_ways
    assert len(first.support_x) == 0
    assert len(first.query_x) == 64
    assert int(first.query_y.max()) < first.num_ways
    assert not torch.equal(first.query_y, second.query_y)


def test_another_test_of_a_run_leaves_its_own_alone(home):
    run = RunFolder.open(train().run_id)
    own = (run.evaluation / "curves.parquet").read_bytes()
    summary = run.read_summary()
    more, plot = session.evaluate(run, (), SilentProgress(), ["episodes.num_ways=5"])
    assert more.protocol["episodes.num_ways"] == 5
    assert plot.parent.name == "episodes.num_ways=5"
    assert (run.evaluation / "episodes.num_ways=5" / "curves.parquet").is_file()
    assert (run.evaluation / "curves.parquet").read_bytes() == own
    assert run.read_summary() == summary
    with pytest.raises(BadInputError, match="a meta-test can change"):
        session.evaluate(run, (), SilentProgress(), ["outer.lr=1"])


def test_a_folder_of_pictures_is_classified(home):
    """One's own files: any size, in colour, dark ink on light paper."""
    export_run(RunFolder.open(train(algorithm={"name": "prototypical"}).run_id), home / "model")
    model = load(home / "model")
    shapes = {"bars": (10, 40, 90, 50), "dots": (45, 45, 55, 55), "poles": (40, 5, 50, 85)}
    for name, box in shapes.items():
        (home / "mine" / name).mkdir(parents=True)
        for number in range(5):
            picture = Image.new("RGB", (120, 100), "white")
            shifted = tuple(place + 10 + number for place in box)
            ImageDraw.Draw(picture).rectangle(shifted, fill="black")
            picture.save(home / "mine" / name / f"{number}.png")
    images, labels = model.read_folder(home / "mine")
    assert images.shape == (15, 28, 28)
    assert images.mean() < 127
    assert model.fit(images, labels).score(images, labels) == 1.0
    assert model.predict(model.read_files([home / "mine" / "dots" / "3.png"])).tolist() == ["dots"]
    with pytest.raises(BadInputError, match="expected a folder for each class"):
        model.read_folder(home / "mine" / "dots")
    (home / "mine" / "dots" / "4.png").write_text("no picture")
    with pytest.raises(BadInputError, match=r"4\.png: "):
        model.read_folder(home / "mine")


@pytest.mark.parametrize(
    "name",
    [
        "prototypical",
        "matching",
        "siamese",
        "relation",
        "memory",
        "conditional_process",
        "classifier",
    ],
)
def test_queries_are_normalised_as_meta_training_episodes_are(name):
    """One by one, by statistics that make features of such episodes have mean 0 and variance 1."""
    model = {"num_filters": 4, "num_blocks": 1, "num_pooled_blocks": 1}
    task = {"kind": "episodes", "batch_size": 32}
    experiment = tiny_episodes(algorithm={"name": name}, model=model, task=task)
    worker = make_worker(experiment)
    spec = TaskSpec(0, 0, 0, "test", 0, purpose="evaluate", method=name)
    worker.prepare(spec, [worker.vector.values.numpy().copy()])
    assert not worker.model.training
    seen = []
    norm = worker.model.encoder[0].norm
    handle = norm.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    with torch.no_grad():
        for index in range(20):
            for episode in worker.family.group(7, index):
                worker.model.encoder(episode.query_x)
    handle.remove()
    features = torch.cat(seen)
    mean, variance = features.mean(dim=(0, 2, 3)), features.var(dim=(0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros(4), atol=0.15, rtol=0)
    torch.testing.assert_close(variance, torch.ones(4), atol=0.3, rtol=0)


def test_one_shot_runs_are_for_those_who_have_not_seen_their_characters():
    episodes = {"test": "one-shot-runs", "num_ways": 20, "num_shots": 1}
    with pytest.raises(ValueError, match=r"one-shot-runs need episodes\.split=lake"):
        tiny_episodes(data={"name": "omniglot"}, episodes=episodes)
    experiment = tiny_episodes(data={"name": "omniglot"}, episodes=episodes | {"split": "lake"})
    assert experiment.episodes.test == "one-shot-runs"


@pytest.mark.skipif("OUTERLOOP_DATA" not in os.environ, reason="OUTERLOOP_DATA is not set")
def test_one_shot_runs_are_tested_in_place_of_drawn_episodes():
    family = task_family(
        tiny_episodes(
            data={"name": "omniglot"},
            episodes={
                "test": "one-shot-runs",
                "num_ways": 20,
                "num_shots": 1,
                "split": "lake",
            },
        ),
        torch.device("cpu"),
    )
    assert family.num_tasks("test") == 20
    assert family.task_name("test", 0) == "run01"
    episode = family.episode("test", 19)
    assert episode.support_x.shape == episode.query_x.shape == (20, 1, 28, 28)
