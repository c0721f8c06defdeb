"""An exported model with the interface of scikit-learn: fit on a support set, predict queries."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from algorithms import EpisodeLearner, InnerLoop, ParameterVector
from algorithms.episodic.learner import Predictor
from algorithms.types import Episode
from pipeline.data.pictures import class_folders, decode_resized, file_picture
from pipeline.errors import BadInputError
from pipeline.estimator_inputs import class_labels, class_numbers, number_targets, prepared
from pipeline.export import ExportedModel, read_exported
from pipeline.learners import inner_optimizer
from pipeline.task_kinds import ENVIRONMENT_KINDS, EPISODE_KINDS
from pipeline.tasks.episode_task import EpisodeTask
from pipeline.worker import PRECISIONS


class NotFittedError(ValueError, AttributeError):
    """`predict` was called before `fit`."""


def load(folder: str | Path, device: str = "cpu") -> FewShotEstimator:
    """Return the model that `outerloop export RUN DIR` wrote to `folder`, ready to `fit`.

    BadInputError, a ValueError that names the file, if it cannot be read.
    """
    exported = read_exported(Path(folder))
    if exported.experiment.task.kind in ENVIRONMENT_KINDS:
        raise BadInputError(
            f"{folder}: is an agent in environments, which learns by acting and not from examples; "
            "pipeline.export.read_exported gives its network"
        )
    return FewShotEstimator(exported, device)


class FewShotEstimator:
    """Learns a task from a few examples; follows scikit-learn's conventions.

    `fit` runs the learner's adaptation: class means for prototypical networks, inner steps for
    MAML, Leap or Reptile, and so on. Images are uint8 [n, H, W] or [n, H, W, C] with values from
    0 to 255, or floating point between 0 and 1, and are prepared as in meta-training.

    A transductive model answers the queries of one `predict` together: the answer to a query
    depends on the others. One by one, the same queries can get other answers.

    An inner loop has the optimizer, steps, precision and batch-norm statistics of the meta-test.
    Not the same are its minibatches, which are drawn from the experiment's seed alone, and that
    examples are never augmented (`task.augment`).

    Attributes:
        exported: what `load` read; never changed.
        device: where `fit` and `predict` compute.
        classes_: after `fit`, the labels found, sorted; scores are in this order.
    """

    classes_: NDArray[Any]

    def __init__(self, exported: ExportedModel, device: str = "cpu") -> None:
        self.exported = exported
        self.device = device
        self._answer: Predictor | None = None

    @property
    def is_classifier(self) -> bool:
        """Whether it tells classes apart; else it predicts numbers."""
        return self.exported.experiment.task.kind != "sinusoids"

    def read_folder(self, folder: str | Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Return the pictures [n, …] of a folder that has a folder for each class, and their names.

        Each picture's middle square is resized to what the network takes; for a network of one
        channel, dark on light becomes light on dark, as it was trained.

        Raises BadInputError, a ValueError, that names the folder or picture that is wrong.
        """
        found = {
            name: self.read_files(paths) for name, paths in class_folders(Path(folder)).items()
        }
        labels = [np.full(len(images), name) for name, images in found.items()]
        return np.concatenate([*found.values()]), np.concatenate(labels)

    def read_files(self, paths: Iterable[str | Path]) -> NDArray[np.uint8]:
        """Return pictures [n, …] from files, as `read_folder` does."""
        wanted = self.exported.preparation
        if not wanted.image_size:
            raise ValueError("this model takes numbers, not pictures")
        pictures = [
            decode_resized(file_picture(Path(p), ""), wanted.image_size, wanted.channels)
            for p in paths
        ]
        if not pictures:
            raise ValueError("paths: expected one picture at least")
        return np.stack(pictures)

    def fit(self, support_x: ArrayLike, support_y: ArrayLike) -> Self:
        """Learn from examples [n, …] with labels, whole numbers or text, [n]; or targets [n, D].

        Raises ValueError, naming the argument, for what cannot be learned from.
        """
        inputs = self._prepare(support_x, "support_x")
        if not self.is_classifier:
            num_outputs = self.exported.num_outputs
            targets = number_targets(support_y, len(inputs), num_outputs, "support_y")
            self._answer = self._adapt(inputs, torch.from_numpy(targets), 0)
            return self
        classes, numbers = class_numbers(support_y, len(inputs), "support_y")
        self._answer = self._adapt(inputs, torch.from_numpy(numbers), len(classes))
        self.classes_ = classes
        return self

    def predict(self, query_x: ArrayLike) -> NDArray[Any]:
        """Return the label [m] of each query, or its targets [m, D]."""
        scores = self._scores(query_x)
        if not self.is_classifier:
            return scores
        labels: NDArray[Any] = self.classes_[scores.argmax(axis=1)]
        return labels

    def predict_proba(self, query_x: ArrayLike) -> NDArray[Any]:
        """Return the belief [m, N] in each of `classes_`."""
        if not self.is_classifier:
            raise AttributeError("predict_proba: this model predicts numbers, not classes")
        belief: NDArray[Any] = torch.from_numpy(self._scores(query_x)).softmax(dim=1).numpy()
        return belief

    def score(self, query_x: ArrayLike, query_y: ArrayLike) -> float:
        """Return the share of queries whose label is right; for numbers, R² as scikit-learn's.

        Raises ValueError, naming the argument, for what cannot be compared.
        """
        answers = self.predict(query_x)
        if self.is_classifier:
            return float((answers == class_labels(query_y, len(answers), "query_y")).mean())
        return _r_squared(
            number_targets(query_y, len(answers), answers.shape[1], "query_y"), answers
        )

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return what the constructor takes, as scikit-learn's `clone` needs it."""
        return {"exported": self.exported, "device": self.device}

    def set_params(self, **params: Any) -> Self:
        """Set what the constructor takes; ValueError for another name. Forgets what was fitted."""
        unknown = sorted(set(params) - set(self.get_params()))
        if unknown:
            raise ValueError(f"{unknown[0]}: unknown parameter; known: exported, device")
        FewShotEstimator.__init__(self, **{**self.get_params(), **params})
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return self._answer is not None

    def __sklearn_tags__(self) -> Any:
        # Only scikit-learn asks for them, so nobody else waits for its import.
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        is_classifier = self.is_classifier
        return Tags(
            estimator_type="classifier" if is_classifier else "regressor",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags() if is_classifier else None,
            regressor_tags=None if is_classifier else RegressorTags(),
            input_tags=InputTags(three_d_array=bool(self.exported.preparation.image_size)),
        )

    def _scores(self, query_x: ArrayLike) -> NDArray[Any]:
        if self._answer is None:
            raise _not_fitted("call fit(support_x, support_y) before predicting")
        queries = self._prepare(query_x, "query_x")
        with torch.no_grad(), _enough_to_normalise("query_x"):
            scores = self._answer(queries).float().cpu().numpy()
        return scores[:, : len(self.classes_)] if self.is_classifier else scores

    def _prepare(self, inputs: ArrayLike, name: str) -> Tensor:
        return prepared(inputs, self.exported.preparation, name).to(self.device)

    def _adapt(self, inputs: Tensor, targets: Tensor, num_ways: int) -> Predictor:
        model = copy.deepcopy(self.exported.model).to(self.device)
        targets = targets.to(self.device)
        with _enough_to_normalise("support_x"):
            if isinstance(model, EpisodeLearner):
                return model.adapt(inputs, targets)
            return self._inner_loop(model, Episode(inputs, targets, inputs, targets, num_ways))

    def _inner_loop(self, model: nn.Module, episode: Episode) -> Predictor:
        """Train `model` on the support set of `episode`; its queries are not looked at."""
        experiment = self.exported.experiment
        if episode.num_ways > self.exported.num_outputs:
            raise ValueError(
                f"support_y: {episode.num_ways} classes, but the network has "
                f"{self.exported.num_outputs} outputs"
            )
        of_episodes = experiment.task.kind in EPISODE_KINDS  # never transductive
        task = EpisodeTask(
            episode,
            seed=experiment.seed,
            batch_size=experiment.task.batch_size,
            transductive=experiment.evaluation.transductive and of_episodes,
        )
        loop = InnerLoop(
            model,
            ParameterVector(model),
            task,
            inner_optimizer(experiment, experiment.evaluation.num_steps),
            precision=PRECISIONS[experiment.inner.precision],
        )
        loop.run(experiment.evaluation.num_steps)
        return partial(task.answer, model)


@contextmanager
def _enough_to_normalise(name: str) -> Iterator[None]:
    """Within the block, batch-norm that has too few examples of the argument `name` says so."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"{name}: one example is too few, as this model normalises over all that are given "
            "together; give two or more at once"
        ) from None


def _not_fitted(message: str) -> NotFittedError:
    """Return an error that those catch too who know scikit-learn's alone, and so have loaded it."""
    theirs = getattr(sys.modules.get("sklearn.exceptions"), "NotFittedError", None)
    if theirs is None:
        return NotFittedError(message)
    both: type[NotFittedError] = type("NotFittedError", (NotFittedError, theirs), {})
    return both(message)


def _r_squared(truth: NDArray[Any], answers: NDArray[Any]) -> float:
    """Return the mean over outputs of R² = 1 − Σ (y − ŷ)² / Σ (y − ȳ)², of arrays [m, D].

    Where all y are the same it is 1 if every answer is right, else 0.
    """
    truth = truth.astype(np.float64)
    missed = np.square(truth - answers).sum(axis=0)
    spread = np.square(truth - truth.mean(axis=0)).sum(axis=0)
    varied = spread > 0
    shares = np.where(varied, 1 - missed / np.where(varied, spread, 1), missed == 0)
    return float(shares.mean())
