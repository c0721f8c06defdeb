"""Whole data sets as tasks: what is trained on, what is shared, and who never sees what."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy

from algorithms import InnerLoop, InnerOptimizer, ParameterVector
from pipeline import session
from pipeline.data.image_sets import Examples, ImageSet, load_image_set
from pipeline.errors import BadInputError
from pipeline.local import LocalBackend
from pipeline.messages import TaskSpec
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from pipeline.server import Start
from pipeline.tasks import sample_meta_batch, task_family
from pipeline.tasks.dataset_task import DatasetTask
from pipeline.workers import make_worker
from tests.pipeline.runs_for_tests import make_trainer, parameters, tiny

DATA = Path(os.environ.get("OUTERLOOP_DATA", ""))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three data sets of 2, 3 and 4 classes, 10 pictures each, of several sizes and colours."""
    root = tmp_path_factory.mktemp("sets")
    generator = np.random.default_rng(0)
    names = []
    for ways in (2, 3, 4):
        for label in range(ways):
            folder = root / f"set{ways}" / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(10):
                size = (12, 10) if i % 2 else (20, 16, 3)
                pixels = (generator.integers(0, 60, size) + 60 * label).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
        names.append(f"folder:{root / f'set{ways}'}")
    return names


def experiment(folders, **sections):
    return tiny(
        **{
            "task": {"kind": "datasets", "batch_size": 4},
            "datasets": {"names": folders, "held_out": folders[1:2], "image_size": 16},
            "model": {"num_filters": 4, "num_blocks": 2, "num_pooled_blocks": 2, "shared": "body"},
            "algorithm": {"name": "leap", "options": {"norm": False}},
        }
        | sections
    )


def test_pictures_are_brought_to_one_size_and_colour_and_a_fifth_is_held_out(folders):
    found = load_image_set(folders[1], 16)
    assert found.train.images.shape == (30, 16, 16, 3)
    assert found.class_names == ("class0", "class1", "class2")
    assert np.bincount(found.train.labels).tolist() == [8, 8, 8]
    assert np.bincount(found.test.labels).tolist() == [2, 2, 2]
    assert not {*found.train.rows} & {*found.test.rows}
    grey = [i for i in range(30) if (np.ptp(found.train.images[i], axis=-1) == 0).all()]
    assert len(grey) == 15  # those of one channel, repeated in each


@pytest.mark.skipif(
    not (DATA / "gtsrb/test.parquet").is_file(),
    reason="OUTERLOOP_DATA does not point at a folder with gtsrb/test.parquet",
)
@pytest.mark.parametrize("name", ["usps", "gtsrb"])
def test_a_parquet_set_keeps_its_own_test_part(name):
    found = load_image_set(name, 32)
    table = pq.read_table(DATA / name / "test.parquet", columns=["class_name"])
    assert len(found.test.rows) == len(table)
    counts = dict(zip(*np.unique(table["class_name"].to_pylist(), return_counts=True), strict=True))
    assert np.bincount(found.test.labels).tolist() == [counts[n] for n in found.class_names]


@pytest.mark.parametrize(
    ("name", "message"),
    [("nonsense", "unknown; known: cifar10,"), ("folder:/nowhere", "/nowhere: cannot be read")],
)
def test_a_set_that_is_not_there_is_named(name, message):
    with pytest.raises(BadInputError, match=message):
        load_image_set(name, 16)


def set_of(num_train=40, num_test=1200, ways=3):
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (num_train + num_test, 8, 8, 3)).astype(np.uint8)
    labels = generator.integers(0, ways, num_train + num_test)
    rows = np.arange(num_train + num_test)
    parts = [
        Examples(images, rows[p], labels[p]) for p in (slice(num_train), slice(num_train, None))
    ]
    return ImageSet("random", tuple("abc"[:ways]), *parts, "")


def test_outputs_beyond_the_classes_take_no_part():
    data = set_of()
    task = DatasetTask(data, seed=3, batch_size=5, device=torch.device("cpu"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 7))
    task.loss(model, 0).backward()
    assert torch.equal(model[1].weight.grad[3:], torch.zeros(4, 192))
    assert (model[1].weight.grad[:3] != 0).any()


def test_evaluation_is_over_every_test_image_whatever_the_batches():
    data = set_of()
    task = DatasetTask(data, seed=3, batch_size=5, device=torch.device("cpu"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 7)).double()
    pixels = torch.from_numpy(data.test.images[data.test.rows]).permute(0, 3, 1, 2)
    logits = model((pixels.float() * 2 / 255 - 1).double())[:, :3].detach()
    labels = torch.from_numpy(data.test.labels)

    class Widened(nn.Module):
        def forward(self, inputs):
            return model(inputs.double())

    found = task.evaluate(Widened())
    assert found["loss"] == pytest.approx(float(cross_entropy(logits, labels)), rel=1e-5)
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert found["error"] == pytest.approx(1 - found["accuracy"])


def test_a_cosine_schedule_falls_from_lr_to_zero():
    optimizer = InnerOptimizer("sgd", lr=0.4, schedule="cosine", num_steps=10)
    expected = [0.2 * (1 + math.cos(math.pi * i / 10)) for i in range(11)]
    assert [optimizer.lr_at(i) for i in range(11)] == pytest.approx(expected)
    assert InnerOptimizer("sgd", lr=0.4).lr_at(7) == 0.4


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop"])
def test_the_schedule_rules_every_optimizer_as_torchs_does(name):
    data = set_of()
    task = DatasetTask(data, seed=3, batch_size=5, device=torch.device("cpu"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).double()
    theirs = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).double()
    theirs.load_state_dict(model.state_dict())
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}[name]
    options = {"eps": 1e-4} if name == "rmsprop" else {}
    optimizer = make(theirs.parameters(), lr=0.01, **options)
    annealed = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for step in range(6):
        optimizer.zero_grad()
        inputs, labels = task._gather(data.train, task._schedule(step)[0].numpy())
        cross_entropy(theirs(inputs.double()), labels).backward()
        optimizer.step()
        annealed.step()

    class Widened(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, inputs):
            return self.inner(inputs.double())

    wide = Widened()
    vector = ParameterVector(wide, dtype=torch.float64)
    # Logits are scored in float32: close, not equal.
    settings = InnerOptimizer(name, lr=0.01, schedule="cosine", num_steps=6)
    records = InnerLoop(wide, vector, task, settings).run(6)
    assert records.lr.tolist() == pytest.approx([settings.lr_at(i) for i in range(6)], rel=1e-6)
    for ours, other in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-5)


def test_leap_on_the_body_alone_is_the_fold_of_the_bodys_path(folders):
    config = experiment(folders)
    worker = make_worker(config)
    layout = worker.layout
    assert (layout.size, layout.num_heads) == (layout.body, 0)
    assert layout.head == worker.vector.size - layout.body > 0
    outer = np.random.default_rng(0).normal(0, 0.1, layout.size).astype(np.float32)
    spec = TaskSpec(2, 1, 0, "train", 2)
    worker.prepare(spec, [outer])
    assert np.array_equal(worker.vector.values[: layout.body], outer)
    start = worker.vector.values.clone()
    segments = list(worker.run(spec, [outer]))
    pulled = sum(piece.values for segment in segments for (piece,) in segment.pieces)
    # The plain sum of −Δθ, and of loss terms: of Leap without loss it would be θ_0 − θ_K.
    assert pulled.shape == (layout.body,)
    assert not torch.equal(worker.vector.values[layout.body :], start[layout.body :])
    without_loss = experiment(
        folders, algorithm={"name": "leap", "options": {"norm": False, "loss": False}}
    )
    worker = make_worker(without_loss)
    pulled = sum(
        piece.values for segment in worker.run(spec, [outer]) for (piece,) in segment.pieces
    )
    moved = outer - worker.vector.values[: layout.body].numpy()
    np.testing.assert_allclose(pulled, moved, atol=1e-5)


def test_each_task_begins_with_a_head_of_its_own(folders):
    worker = make_worker(experiment(folders))
    outer = np.zeros(worker.layout.size, np.float32)
    heads = []
    for spec in (
        TaskSpec(0, 0, 0, "train", 0),
        TaskSpec(0, 0, 0, "train", 0, attempt=1),
        TaskSpec(0, 1, 0, "train", 0),
        TaskSpec(1, 0, 0, "train", 1),
        TaskSpec(1, 0, 0, "test", 1, purpose="evaluate", method="leap"),
    ):
        worker.prepare(spec, [outer])
        heads.append(worker.vector.values[worker.layout.body :].clone())
    first, retried, *others = heads
    assert torch.equal(first, retried)
    assert all(not torch.equal(first, other) for other in others)


def test_epochs_count_steps_by_the_size_of_the_data_set(folders):
    sections = {"inner": {"epochs": 2, "segment_steps": 3}}
    worker = make_worker(experiment(folders, **sections))
    outer = np.zeros(worker.layout.size, np.float32)
    counts = [
        sum(len(s.rows) for s in worker.run(TaskSpec(0, 0, task, "train", 0), [outer]))
        for task in (0, 1)
    ]
    assert counts == [2 * 16 // 4, 2 * 32 // 4]
    assert [worker.family.task_name("train", i) for i in (0, 1)] == [folders[0], folders[2]]


def test_a_held_out_set_is_never_trained_on(folders):
    config = experiment(folders)
    family = task_family(config, torch.device("cpu"))
    trained = {family.task_name("train", i) for s in range(9) for i in sample_meta_batch(config, s)}
    assert trained == {folders[0], folders[2]}
    assert [family.task_name("test", i) for i in range(family.num_tasks("test"))] == folders[1:2]


@pytest.mark.parametrize("name", ["leap", "reptile", "finetune"])
def test_the_result_is_the_same_in_pieces_and_whole(folders, name, tmp_path):
    results = []
    for part, segment_steps in (("a", 9), ("b", 2)):
        config = experiment(
            folders,
            algorithm={"name": name},
            inner={"num_steps": 9, "segment_steps": segment_steps, "schedule": "cosine"},
        )
        trainer, _ = make_trainer(config, LocalBackend(config, Start()), tmp_path / part)
        trainer.train(until=2)
        results.append(parameters(tmp_path / part))
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-6)


@pytest.mark.ray
def test_workers_do_not_change_the_result(folders, tmp_path, monkeypatch, local_ray):
    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    digests = {
        session.train(
            experiment(folders, workers={"count": count}), SilentProgress()
        ).parameters_sha256
        for count in (0, 2)
    }
    assert len(digests) == 1


def test_methods_are_compared_on_the_same_held_out_set(folders, tmp_path, monkeypatch):
    from pipeline.comparison import compare
    from pipeline.evaluation import Evaluation

    monkeypatch.setenv("OUTERLOOP_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs = [
        session.train(experiment(folders, algorithm={"name": name}), SilentProgress())
        for name in ("leap", "finetune")
    ]
    read = [Evaluation.from_parquet(RunFolder.open(run.run_id).evaluation) for run in runs]
    assert {*compare(read).evaluation.summary()} == {"leap", "finetune", "scratch"}
    assert read[0].protocol["test_tasks"] == folders[1:2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["digits", "mnit"]}, "unknown data set 'mnit'.*mnist"),
        ({"names": ["digits", "digits"]}, "'digits' is there twice"),
        ({"held_out": ["usps"]}, "'usps' is none of datasets.names"),
        ({"held_out": ["digits", "glyphs"]}, "leaves no data set to meta-train on"),
        ({"validation": ["digits"]}, "'digits' is held out"),
    ],
)
def test_lists_of_data_sets_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tiny(task={"kind": "datasets", "batch_size": 4}, datasets=change)
