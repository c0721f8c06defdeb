"""Episodes: a learner's loss on a group of them, or its answers on one that is held out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa
import torch
from torch import Tensor

from algorithms.batch_norm import estimate_statistics, has_running_statistics
from algorithms.episodic.learner import EpisodeLearner, query_loss
from algorithms.inner_loop import StepRecords
from algorithms.models.passed import Passed
from algorithms.parameters import capture_buffers, restore_buffers
from algorithms.types import Episode, EpisodeResult
from pipeline.aggregator import Array
from pipeline.config import Experiment
from pipeline.messages import TRAJECTORY_SCHEMA, Segment, Split, TaskSpec
from pipeline.seeding import derive_seed
from pipeline.task_rows import trajectory_rows
from pipeline.tasks.episode_family import EpisodeFamily
from pipeline.worker import Worker

# Meta-training episodes over which batch-norm statistics are taken: groups of an outer step of
# their own.
STATISTICS_STEP, STATISTICS_GROUPS = -2, 20


class EpisodeWorker(Worker):
    """Differentiates the loss of episodes, and meta-tests on held-out ones.

    A contribution is the mean gradient of `episodes.group` episodes. A learner that is not
    transductive is tested with the batch-norm statistics of meta-training episodes: always the
    same ones, so that they do not depend on which worker saw what before.
    """

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        assert isinstance(self.model, EpisodeLearner)
        self.learner = self.model
        self.family: EpisodeFamily = EpisodeFamily(experiment, self.device)
        self._is_encoded = False
        # Batch-norm statistics of each method that is tested, and of which version and repeat.
        self._statistics: dict[str, tuple[tuple[int, int], dict[str, Tensor]]] = {}

    def run(self, spec: TaskSpec, params: Sequence[Array]) -> Iterator[Segment]:
        """Yield the one segment of a group's gradient, or of a held-out episode's answers."""
        if self.learner.wants_pretrained and not self._is_encoded:
            self._encode_once()
        self.prepare(spec, params)
        yield self._train(spec) if spec.purpose == "train" else self._test(spec)

    def _encode_once(self) -> None:
        """Have a frozen encoder see each image once, and the learner its features alone."""
        self.learner.eval()
        self._is_encoded = True
        if self.family.encode(self.learner.encoder):
            self.learner.encoder = Passed(self.learner.encoder.feature_shape)

    def prepare(self, spec: TaskSpec, params: Sequence[Array]) -> None:
        """Load the parameters; for a test, also the batch-norm statistics that it wants."""
        self._load(spec, params)
        self.learner.train(spec.purpose == "train")
        if spec.purpose != "train" and self._wants_statistics():
            self._use_statistics(spec)

    def _wants_statistics(self) -> bool:
        learner = self.learner
        return (
            learner.uses_running_statistics
            and not learner.transductive
            and has_running_statistics(learner)
        )

    def _fresh_seed(self, spec: TaskSpec) -> int:
        """Return one seed for all episodes: what is not learned is one network, as what is."""
        return derive_seed(self.experiment.seed, "scratch", 0, spec.repeat)

    def _train(self, spec: TaskSpec) -> Segment:
        start = time.perf_counter()
        self.vector.grads.zero_()
        episodes = self.family.group(spec.meta_step, spec.index)
        losses, errors = [], []
        for episode in episodes:
            result = self._result(episode)
            (result.loss / len(episodes)).backward()  # type: ignore[no-untyped-call]
            losses.append(result.loss.detach())
            errors.append(_error(result.predictions.detach(), episode))
        records = _records(losses, errors, self.vector.grads)
        finite = bool(torch.isfinite(records.loss).all() & torch.isfinite(records.grad_norm).all())
        wall_ms = 1e3 * (time.perf_counter() - start) / len(episodes)
        name = self.family.task_name(spec.split, spec.task_id)
        return Segment(
            spec=spec,
            number=0,
            final=True,
            finite=finite,
            task=name,
            rows=trajectory_rows(spec, name, 0, records, wall_ms),
            pieces=self._pieces(spec, self.vector.grads.clone()) if finite else (),
            metrics={},
        )

    def _result(self, episode: Episode) -> EpisodeResult:
        is_mixed = self.precision is torch.bfloat16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_mixed):
            return self.learner.episode_loss(episode)

    def _test(self, spec: TaskSpec) -> Segment:
        with torch.no_grad():
            episode, predictions = self._answer(spec.split, spec.task_id)
            metrics = {"loss": float(query_loss(predictions, episode.query_y))}
        if episode.num_ways:
            error = float(_error(predictions, episode))
            metrics |= {"accuracy": 1.0 - error, "error": error}
        return Segment(
            spec=spec,
            number=0,
            final=True,
            finite=math.isfinite(metrics["loss"]),
            task=self.family.task_name(spec.split, spec.task_id),
            rows=pa.RecordBatch.from_pylist([], schema=TRAJECTORY_SCHEMA),
            pieces=(),
            metrics=metrics,
        )

    def _use_statistics(self, spec: TaskSpec) -> None:
        """Put the statistics of meta-training episodes, at these parameters, into the learner."""
        key = (spec.version, spec.repeat)
        if spec.method in self._statistics and self._statistics[spec.method][0] == key:
            restore_buffers(self.learner, self._statistics[spec.method][1])
            return
        # By what trains the learner: nothing else may move its running statistics.
        passes = (
            partial(self.learner.episode_loss, episode)
            for number in range(STATISTICS_GROUPS)
            for episode in self.family.group(STATISTICS_STEP, number)
        )
        estimate_statistics(self.learner, passes)
        self._statistics[spec.method] = (key, capture_buffers(self.learner))

    def _answer(self, split: Split, number: int) -> tuple[Episode, Tensor]:
        """Return an episode and the learner's answers to its queries."""
        episode = self.family.episode(split, number)
        return episode, self.learner.adapt(episode.support_x, episode.support_y)(episode.query_x)


def _error(predictions: Tensor, episode: Episode) -> Tensor:
    """Return the share of wrong answers (shape []); NaN for a regression."""
    if not episode.num_ways:
        return predictions.new_full((), math.nan)
    return (predictions.argmax(dim=1) != episode.query_y).float().mean()


def _records(losses: list[Tensor], errors: list[Tensor], grads: Tensor) -> StepRecords:
    """Return the figures of a group: a row an episode; the gradient is that of the whole group."""
    norm = torch.linalg.vector_norm(grads).float().expand(len(losses))
    return StepRecords(
        loss=torch.stack(losses).float().cpu(),
        error=torch.stack(errors).float().cpu(),
        grad_norm=norm.cpu(),
        path_length=torch.full((len(losses),), math.nan),
        lr=torch.full((len(losses),), math.nan),
    )
