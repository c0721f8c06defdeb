"""The estimator: scikit-learn's conventions, the meta-test's inner loop, one line for bad input."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError as TheirNotFittedError
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted

from algorithms import InnerLoop, ParameterVector
from algorithms.baselines import initial_parameters
from algorithms.types import Episode
from pipeline.estimator import FewShotEstimator, NotFittedError
from pipeline.export import ExportedModel
from pipeline.learners import inner_optimizer
from pipeline.network import build_network
from pipeline.tasks.episode_task import EpisodeTask
from pipeline.tasks.shapes import Preparation, task_shape
from tests.pipeline.episodes_for_tests import tiny_episodes


def estimator(**sections):
    """A model that was never trained, as if it came from a folder."""
    experiment = tiny_episodes(**sections)
    model, vector = build_network(experiment)
    vector.load(initial_parameters(model, 3))
    shape = task_shape(experiment)
    preparation = Preparation(shape.image_size, shape.in_channels, (0.0,), (1.0,))
    return FewShotEstimator(ExportedModel(experiment, model.eval(), preparation, shape.num_outputs))


def regressor(name="reptile"):
    return estimator(
        algorithm={"name": name}, task={"kind": "sinusoids"}, model={"encoder": "perceptron"}
    )


def examples(num_each, seed=0):
    """Three classes of images: each a square in a place of its own, and noise."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 60, (3 * num_each, 28, 28), dtype=np.uint8)
    for number, image in enumerate(images):
        place = 9 * (number % 3)
        image[place : place + 9, place : place + 9] += 150
    return images, np.array(["a", "b", "c"] * num_each)


def waves(num, phase=0.0):
    x = np.linspace(-5, 5, num)
    return x[:, None], np.sin(x + phase)


def test_a_clone_is_unfitted_and_learns_the_same():
    images, labels = examples(4)
    for name in ("prototypical", "reptile"):
        model = estimator(algorithm={"name": name}).fit(images, labels)
        copied = clone(model)
        with pytest.raises(NotFittedError, match="call fit"):
            copied.predict(images)
        copied.fit(images, labels)
        np.testing.assert_array_equal(copied.predict_proba(images), model.predict_proba(images))


def test_fitting_leaves_the_exported_model_as_it_is():
    for name in ("maml", "reptile"):
        model = estimator(algorithm={"name": name})
        before = {k: v.clone() for k, v in model.exported.model.state_dict().items()}
        model.fit(*examples(4)).predict(examples(4)[0])
        after = model.exported.model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_scikit_learn_takes_it_into_pipelines_and_cross_validation():
    images, labels = examples(6)
    model = make_pipeline(estimator()).fit(images, labels)
    assert model.score(images, labels) == accuracy_score(labels, model.predict(images)) > 0.9
    scores = cross_val_score(estimator(), images, labels, cv=3, error_score="raise")
    halves = images[::2], labels[::2], images[1::2], labels[1::2]
    assert scores.shape == (3,)
    assert scores.min() > 0.9
    model = estimator().fit(*halves[:2])
    assert model.score(*halves[2:]) == accuracy_score(halves[3], model.predict(halves[2]))
    assert is_classifier(model)
    assert is_regressor(regressor())


def test_an_unfitted_model_is_known_as_such_by_scikit_learn():
    model, (images, labels) = estimator(), examples(2)
    with pytest.raises(TheirNotFittedError):
        check_is_fitted(model)
    with pytest.raises(TheirNotFittedError, match="call fit") as caught:
        model.predict(images)
    assert isinstance(caught.value, NotFittedError)
    check_is_fitted(model.fit(images, labels))


def test_nobody_waits_for_scikit_learn_who_does_not_use_it():
    program = "import sys, pipeline.estimator; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_numbers_are_scored_as_scikit_learn_does():
    x, y = waves(12)
    model = regressor().fit(x, y)
    assert model.score(x, y) == pytest.approx(r2_score(y, model.predict(x)[:, 0]))
    assert model.score(x, np.ones(12)) == r2_score(np.ones(12), model.predict(x)[:, 0]) == 0
    np.testing.assert_array_equal(regressor().fit(x[:, 0], y).predict(x), model.predict(x))


@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fit_is_the_inner_loop_of_the_meta_test(transductive, precision):
    """Held against `EpisodeTask.evaluate`, which is what a meta-test reports."""
    model = estimator(
        algorithm={"name": "reptile"},
        inner={"precision": precision, "lr": 0.05},
        evaluation={"transductive": transductive, "num_steps": 4},
        seed=5,
    )
    (support, _), (queries, _) = examples(3), examples(5, seed=1)
    inputs = [torch.from_numpy(x[:, None] / np.float32(255)) for x in (support, queries)]
    labels = [torch.arange(len(x)) % 3 for x in inputs]
    network, vector = build_network(model.exported.experiment)
    vector.load(initial_parameters(network, 3))
    episode = Episode(inputs[0], labels[0], inputs[1], labels[1], 3)
    task = EpisodeTask(episode, seed=5, batch_size=8, transductive=transductive)
    InnerLoop(
        network,
        ParameterVector(network),
        task,
        inner_optimizer(model.exported.experiment, 4),
        precision=getattr(torch, precision),
    ).run(4)
    expected = task.evaluate(network)

    model.fit(support, labels[0].numpy())
    belief = model.predict_proba(queries)
    loss = -np.log(belief[np.arange(len(belief)), labels[1]]).mean()
    assert loss == pytest.approx(expected["loss"], rel=1e-5)
    assert model.score(queries, labels[1].numpy()) == pytest.approx(expected["accuracy"])
    together = np.abs(model.predict_proba(queries[:2]) - belief[:2]).max() > 1e-4
    assert together == transductive


def test_a_model_of_alphabets_answers_one_by_one_as_its_meta_test_does():
    task = {"kind": "alphabets", "num_ways": 3}
    model = estimator(
        algorithm={"name": "leap"}, task=task, evaluation={"transductive": True, "num_steps": 2}
    )
    images, labels = examples(3)
    belief = model.fit(images, labels).predict_proba(images)
    np.testing.assert_allclose(model.predict_proba(images[:1]), belief[:1], rtol=1e-4)


DEEP = {"num_filters": 4, "num_blocks": 4, "pool_first": True}  # to 1 by 1 before the last norm


@pytest.mark.parametrize("name", ["maml", "reptile"])
def test_too_few_to_normalise_over_is_one_line_that_names_them(name):
    sections = {"algorithm": {"name": name}, "evaluation": {"transductive": True}}
    model, (images, labels) = estimator(model=DEEP, **sections), examples(2)
    model.fit(images, labels)
    with pytest.raises(ValueError, match=r"^query_x: one example is too few"):
        model.predict(images[:1])
    assert model.predict(images[:2]).shape == (2,)
    shallow = estimator(model=DEEP | {"num_blocks": 3}, **sections).fit(images, labels)
    assert shallow.predict(images[:1]).shape == (1,)
    if name == "reptile":
        with pytest.raises(ValueError, match=r"^support_x: one example is too few"):
            model.fit(images[:1], labels[:1])


IMAGES, LABELS = examples(2)
BAD_LABELS = {
    "one for all": (3, "expected one label"),
    "none": (["a", None] * 3, "expected one label .* got None"),
    "of two kinds": (np.array(["a", 1] * 3, object), "expected labels of one kind"),
    "broken": ([0.5] * 6, "expected one label .* got float64"),
    "too few": (["a"], "expected 6 labels, one for each example, got 1"),
    "in rows": ([["a"]] * 6, "expected one label"),
    "ragged": ([["a"], ["b", "c"]] * 3, "differ in length"),
}


@pytest.mark.parametrize(("labels", "says"), BAD_LABELS.values(), ids=list(BAD_LABELS))
def test_bad_labels_are_one_line_that_names_them(labels, says):
    model = estimator()
    with pytest.raises(ValueError, match=f"^support_y: .*{says}"):
        model.fit(IMAGES, labels)
    model.fit(IMAGES, LABELS)
    if says != "expected labels of one kind":  # to compare, any of them will do
        with pytest.raises(ValueError, match=f"^query_y: .*{says}"):
            model.score(IMAGES, labels)


BAD_TARGETS = {
    "one for all": (3.0, r"expected target numbers \[6, 1\]"),
    "two for one output": (np.ones((6, 2)), r"expected target numbers \[6, 1\]"),
    "too few": (np.ones(1), r"expected target numbers \[6, 1\]"),
    "text": (["a"] * 6, "expected target numbers"),
    "not finite": ([0, 1, 2, 3, 4, np.nan], "not finite"),
    "too large": ([0, 1, 2, 3, 4, 1e300], "not finite"),
}


@pytest.mark.parametrize("name", ["reptile", "maml"])
@pytest.mark.parametrize(("targets", "says"), BAD_TARGETS.values(), ids=list(BAD_TARGETS))
def test_bad_targets_are_one_line_that_names_them(targets, says, name):
    x, y = waves(6)
    model = regressor(name)
    with pytest.raises(ValueError, match=f"^support_y: .*{says}"):
        model.fit(x, targets)
    model.fit(x, y)
    with pytest.raises(ValueError, match=f"^query_y: .*{says}"):
        model.score(x, targets)


def test_bad_inputs_are_one_line_that_names_them():
    x, y = waves(6)
    with pytest.raises(ValueError, match=r"^support_x: expected 1 number\(s\) an example"):
        regressor().fit(np.ones((6, 3)), y)
    with pytest.raises(ValueError, match=r"^query_x: expected 1 number\(s\) an example"):
        regressor().fit(x, y).predict(np.ones((6, 3)))
    with pytest.raises(ValueError, match=r"^support_x: .* differ in length"):
        estimator().fit([[1, 2], [3]], ["a", "b"])
    with pytest.raises(ValueError, match=r"^paths: expected one picture"):
        estimator().read_files([])
    with pytest.raises(ValueError, match="cannot be read"):
        estimator().read_folder("nowhere")
