"""What MLflow loads of a logged model: support set and queries in, labels or numbers out.

    model = mlflow.pyfunc.load_model("models:/NAME/VERSION")
    model.predict({"support_x": …, "support_y": …, "query_x": …})

MLflow imports this module by its name and calls `_load_pyfunc`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import load_experiment
from pipeline.estimator import FewShotEstimator, load
from pipeline.export import CONFIG, described_sizes
from pipeline.exported_weights import read_about
from pipeline.task_kinds import ENVIRONMENT_KINDS

Arrays = dict[str, NDArray[Any]]


class ServedModel:
    """Learns each task anew from its support set; keeps nothing from one call to the next."""

    def __init__(self, estimator: FewShotEstimator) -> None:
        self._estimator = estimator

    def predict(
        self, model_input: Mapping[str, NDArray[Any]], params: Mapping[str, Any] | None = None
    ) -> NDArray[Any]:
        """Return the label [m] of each query, or its targets [m, D].

        Args:
            model_input: support_x [n, …], support_y [n] or [n, D] and query_x [m, …], as
                `FewShotEstimator.fit` and `predict` take them.
            params: Of MLflow's interface; there are none.
        """
        self._estimator.fit(model_input["support_x"], model_input["support_y"])
        return self._estimator.predict(model_input["query_x"])


def _load_pyfunc(path: str) -> ServedModel:
    return ServedModel(load(path))


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a call takes and gives; of each array the shape but for its first axis."""

    x: tuple[int, ...]  # of an example: pictures uint8 [H, W, C], else float32 [D]
    y: tuple[int, ...]  # of a label, int64 [], or of targets, float32 [D]

    def example(self) -> Arrays:
        """Return a task of two examples, one of each class, and as many queries: stripes."""
        if len(self.x) == 3:
            across = np.broadcast_to(np.arange(self.x[1])[None, :, None] % 2 * 255, self.x)
            down = np.broadcast_to(np.arange(self.x[0])[:, None, None] % 2 * 255, self.x)
            x = np.stack([across, down]).astype(np.uint8)
        else:
            x = np.stack([np.full(self.x, 0.0), np.full(self.x, 1.0)]).astype(np.float32)
        y = np.arange(2, dtype=np.int64)
        if self.y:
            y = np.stack([np.full(self.y, value) for value in y]).astype(np.float32)
        return {"support_x": x, "support_y": y, "query_x": x[::-1].copy()}


def sizes(folder: Path) -> Sizes | None:
    """Return what a call of the exported model takes; None for an agent, which has no examples.

    BadInputError if the folder holds no exported model.
    """
    kind = load_experiment(folder / CONFIG).task.kind
    if kind in ENVIRONMENT_KINDS:
        return None
    preparation, num_outputs = described_sizes(read_about(folder), folder)
    side = preparation.image_size
    x = (side, side, preparation.channels) if side else (preparation.channels,)
    return Sizes(x, (num_outputs,) if kind == "sinusoids" else ())
