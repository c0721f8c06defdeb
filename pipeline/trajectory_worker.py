"""Inner loops: trains on a task and streams its trajectory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from algorithms.inner_loop import InnerLoop
from pipeline.aggregator import Array
from pipeline.config import Experiment
from pipeline.errors import EnvironmentFailedError
from pipeline.learners import inner_optimizer, trajectory_learner
from pipeline.messages import Segment, TaskSpec
from pipeline.seeding import derive_seed
from pipeline.task_run import TaskRun
from pipeline.tasks import task_family
from pipeline.worker import Worker


class TrajectoryWorker(Worker):
    """Runs inner loops, which a meta-learner folds into outer gradients."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.family = task_family(experiment, self.device)
        self.learner = trajectory_learner(experiment)

    def run(self, spec: TaskSpec, params: Sequence[Array]) -> Iterator[Segment]:
        """Train on the task from `params` and yield its segments in order.

        A task whose environment fails or hangs ends there, in a segment that says so.
        """
        run = TaskRun(
            spec,
            self.family.task_name(spec.split, spec.task_id),
            self.begin(spec, params),
            self.family.num_steps(spec),
            self.experiment.inner,
            partial(self._pieces, spec),
            renew=self.experiment.environments.restart_at_checkpoints,
        )
        try:
            yield from run.segments()
        except EnvironmentFailedError as error:
            yield run.failed(str(error))

    def begin(self, spec: TaskSpec, params: Sequence[Array]) -> InnerLoop:
        """Return the inner loop on the task from `params`, before its first step."""
        self._load(spec, params)
        train = spec.purpose == "train"
        num_shared = self.vector.size if self.layout.num_heads else self.layout.body
        return InnerLoop(
            self.model,
            self.vector,
            self.family.make(spec.split, spec.task_id, self._task_seed(spec)),
            inner_optimizer(self.experiment, self.family.num_steps(spec)),
            fold=self.learner.start(self.vector.values[:num_shared]) if train else None,
            precision=self.precision,
            num_shared=num_shared,
        )

    def _task_seed(self, spec: TaskSpec) -> int:
        if spec.purpose == "train":
            return derive_seed(self.experiment.seed, "task", spec.meta_step, spec.index)
        # The same minibatches for every method and at every version.
        return derive_seed(self.experiment.seed, "evaluate", spec.task_id, spec.repeat)
