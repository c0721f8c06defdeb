"""An exported model with the interface of scikit-learn: fit on a support set, predict queries."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from algorithms import EpisodeLearner, InnerLoop, ParameterVector
from algorithms.batch_norm import estimate_statistics, has_running_statistics
from algorithms.episodic.learner import Predictor, check_support
from algorithms.types import Episode
from pipeline.data.pictures import class_folders, decode_resized, file_picture
from pipeline.export import ExportedModel, read_exported
from pipeline.learners import inner_optimizer
from pipeline.tasks.episode_task import EpisodeTask
from pipeline.tasks.shapes import Preparation


class NotFittedError(ValueError, AttributeError):
    """`predict` was called before `fit`."""


def load(folder: str | Path, device: str = "cpu") -> FewShotEstimator:
    """Return the model that `outerloop export RUN DIR` wrote to `folder`, ready to `fit`.

    BadInputError, a ValueError that names the file, if it cannot be read.
    """
    return FewShotEstimator(read_exported(Path(folder)), device)


class FewShotEstimator:
    """Learns a task from a few examples; follows scikit-learn's conventions.

    `fit` runs the learner's adaptation: class means for prototypical networks, inner steps for
    MAML, Leap or Reptile, and so on. Images are uint8 [n, H, W] or [n, H, W, C] with values from
    0 to 255, or floating point between 0 and 1, and are prepared as in meta-training.

    Attributes:
        classes_: after `fit`, the labels found, sorted; scores are in this order.
    """

    def __init__(self, exported: ExportedModel, device: str = "cpu") -> None:
        self._exported = exported
        self._model = exported.model.to(device)
        self._device = torch.device(device)
        self._answer: Predictor | None = None
        self.classes_: NDArray[Any] = np.empty(0)

    @property
    def is_classifier(self) -> bool:
        """Whether it tells classes apart; else it predicts numbers."""
        return self._exported.experiment.task.kind != "sinusoids"

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
        wanted = self._exported.preparation
        if not wanted.image_size:
            raise ValueError("this model takes numbers, not pictures")
        return np.stack(
            [
                decode_resized(file_picture(Path(p), ""), wanted.image_size, wanted.channels)
                for p in paths
            ]
        )

    def fit(self, support_x: ArrayLike, support_y: ArrayLike) -> Self:
        """Learn from examples [n, …] with labels of any kind [n], or with targets [n, D].

        Raises ValueError, naming the argument, for what cannot be learned from.
        """
        inputs = self._prepare(support_x, "support_x")
        labels = np.asarray(support_y)
        if len(labels) != len(inputs):
            raise ValueError(
                f"support_y: expected {len(inputs)} labels, one for each example, got {len(labels)}"
            )
        if not self.is_classifier:
            self._answer = self._adapt(inputs, self._targets(labels), 0)
            return self
        if labels.ndim != 1 or labels.dtype.kind == "f":
            raise ValueError("support_y: expected one label (a whole number or text) an example")
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        targets = torch.from_numpy(numbers.astype(np.int64)).to(self._device)
        check_support(inputs, targets)
        self._answer = self._adapt(inputs, targets, len(self.classes_))
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
        """Return the share of queries whose label is right; for numbers, R²."""
        truth, answers = np.asarray(query_y), self.predict(query_x)
        if self.is_classifier:
            return float((answers == truth).mean())
        truth = truth.reshape(answers.shape)
        spread = float(np.square(truth - truth.mean(axis=0)).sum())
        return 1.0 - float(np.square(truth - answers).sum()) / spread

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return what the constructor takes, as scikit-learn's `clone` needs it."""
        return {"exported": self._exported, "device": str(self._device)}

    def set_params(self, **params: Any) -> Self:
        """Set what the constructor takes; ValueError for another name. Forgets what was fitted."""
        unknown = sorted(set(params) - set(self.get_params()))
        if unknown:
            raise ValueError(f"{unknown[0]}: unknown parameter; known: exported, device")
        FewShotEstimator.__init__(self, **{**self.get_params(), **params})
        return self

    def _scores(self, query_x: ArrayLike) -> NDArray[Any]:
        if self._answer is None:
            raise NotFittedError("call fit(support_x, support_y) before predicting")
        with torch.no_grad():
            scores = self._answer(self._prepare(query_x, "query_x")).float().cpu()
        return scores.numpy()[:, : len(self.classes_)] if self.is_classifier else scores.numpy()

    def _prepare(self, inputs: ArrayLike, name: str) -> Tensor:
        return prepared(inputs, self._exported.preparation, name).to(self._device)

    def _targets(self, targets: NDArray[Any]) -> Tensor:
        columns = targets.reshape(len(targets), -1).astype(np.float32)
        return torch.from_numpy(columns).to(self._device)

    def _adapt(self, inputs: Tensor, targets: Tensor, num_ways: int) -> Predictor:
        if isinstance(self._model, EpisodeLearner):
            return self._model.adapt(inputs, targets)
        return self._inner_loop(Episode(inputs, targets, inputs, targets, num_ways))

    def _inner_loop(self, episode: Episode) -> Predictor:
        """Train a copy of the network on the support set, as the meta-test does."""
        experiment = self._exported.experiment
        model = copy.deepcopy(self._model)
        num_outputs = experiment.task.num_ways
        if experiment.task.kind == "episodes":
            num_outputs = experiment.episodes.num_ways
        if episode.num_ways > num_outputs:
            raise ValueError(
                f"support_y: {episode.num_ways} classes, but the network has {num_outputs} outputs"
            )
        task = EpisodeTask(
            episode,
            seed=experiment.seed,
            batch_size=experiment.task.batch_size,
            transductive=False,
        )
        num_steps = experiment.evaluation.num_steps
        optimizer = inner_optimizer(experiment, num_steps)
        InnerLoop(model, ParameterVector(model), task, optimizer).run(num_steps)
        if has_running_statistics(model):
            estimate_statistics(model, [partial(model, episode.support_x)])
        return model.eval()


def prepared(inputs: ArrayLike, preparation: Preparation, name: str) -> Tensor:
    """Return what a network takes: float32 [n, C, H, W] as in meta-training, or [n, D].

    Args:
        inputs: Images uint8 [n, H, W] or [n, H, W, C], or floating point from 0 to 1, also
            [n, C, H, W]; for a network that takes numbers, [n] or [n, D].
        preparation: Sizes and channel statistics that the network was trained with.
        name: Of the argument, for an error.

    Raises:
        ValueError: The shape or a value is not what the network takes.
    """
    array = np.asarray(inputs)
    if array.dtype.kind not in "uif" or array.ndim < 1 or not len(array):
        raise ValueError(f"{name}: expected numbers [n, …], got {array.dtype} {list(array.shape)}")
    values = torch.from_numpy(array.astype(np.float32))
    if not torch.isfinite(values).all():
        raise ValueError(f"{name}: has values that are not finite (NaN or infinite)")
    if not preparation.image_size:
        return values.reshape(len(values), -1)
    side, channels = preparation.image_size, preparation.channels
    if array.dtype == np.uint8:
        values = values / 255
    elif float(values.min()) < 0 or float(values.max()) > 1:
        raise ValueError(f"{name}: expected uint8, or values from 0 to 1")
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim == 4 and values.shape[1:] == (side, side, channels):
        values = values.permute(0, 3, 1, 2)
    if values.shape[1:] != (channels, side, side):
        raise ValueError(
            f"{name}: expected images of {side} by {side} pixels with {channels} channel(s), got "
            f"shape {list(array.shape)}"
        )
    mean, std = (torch.tensor(v)[:, None, None] for v in (preparation.mean, preparation.std))
    return ((values - mean) / std).contiguous(memory_format=torch.channels_last)
