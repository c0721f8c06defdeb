"""What `outerloop watch` does with a run: adapt its model to a task, and keep a video of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.checkpoint import Checkpoint
from pipeline.config import Experiment
from pipeline.environments import WatchedEnvironment
from pipeline.errors import BadInputError, InterruptedRunError
from pipeline.export import tested_checkpoint
from pipeline.files import disk_errors
from pipeline.interrupt import StopRequest
from pipeline.messages import TaskSpec
from pipeline.progress import Progress
from pipeline.run_ending import FINISH_TIMEOUT_S
from pipeline.run_log import LoggedProgress, logged_to
from pipeline.runs import RunFolder, home
from pipeline.seeding import derive_seed
from pipeline.session import BASELINES
from pipeline.task_kinds import ENVIRONMENT_KINDS
from pipeline.tasks.environment_pools import environment_pool
from pipeline.tracking import Tracker, tracking_uri
from pipeline.tracking_marks import read_target
from pipeline.trajectory_worker import TrajectoryWorker
from pipeline.video import Frame, check_encoder, check_video, write_video
from pipeline.watching import Place, WatchedEpisode, adapt, find_task

NO_PART_OF_A_NAME = re.compile(r"[^\w.-]+")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What is to be watched."""

    task: str  # a game, or the name of a control task
    method: str = ""  # the run's own, or a baseline; empty: the run's own
    num_steps: int | None = None  # inner steps of adaptation; None: those of the meta-test
    max_seconds: float = 60.0  # of play, at the environment's own pace
    output: Path | None = None  # .mp4 or .gif; None: among the run's videos


@dataclass(frozen=True, slots=True)
class WatchResult:
    """What came of it."""

    task: str
    method: str
    inner_steps: int
    env_steps: int  # of the adaptation
    episode_return: float  # true, undiscounted
    length: int  # of the episode, in actions
    has_ended: bool  # whether the episode did, and not the time for it
    seconds: float  # of play that the video shows
    video: Path


def watch(run: RunFolder, request: WatchRequest, progress: Progress) -> WatchResult:
    """Adapt the run's tested model to a task, play an episode and write a video of it.

    On a held-out task the adaptation is bitwise the first one of the meta-test, if it takes as
    many steps. Raises BadInputError before the first of them for what cannot be watched.
    """
    with run.locked():
        experiment = run.read_experiment()
        if experiment.task.kind not in ENVIRONMENT_KINDS:
            raise BadInputError(
                f"run {run.run_id}: task.kind={experiment.task.kind} is nothing to watch; "
                f"expected a run of {' or '.join(sorted(ENVIRONMENT_KINDS))}"
            )
        read_target(run.metrics.parent)  # a damaged one is refused before the work
        method = _method(experiment, request.method)
        place = find_task(experiment, request.task)
        output = _output(run, place, method, request.output)
        checkpoint = tested_checkpoint(run, experiment)
        environment = environment_pool(place.experiment).watched(place.split, place.number)
        stop = StopRequest(progress)
        stop.what_follows = "stopping without a video"
        try:
            with stop.listening(), logged_to(run.log, progress):
                stop.begin()
                work = _Watching(place, method, request, environment, stop)
                result = work.run(checkpoint, output, LoggedProgress(progress, run.log))
                _track(run, experiment, output, stop)
        finally:
            environment.close()
    return result


class _Watching:
    """Adapting and playing; each asks now and then whether it is to stop."""

    def __init__(
        self,
        place: Place,
        method: str,
        request: WatchRequest,
        environment: WatchedEnvironment,
        stop: StopRequest,
    ) -> None:
        planned = place.experiment.evaluation.num_steps
        self._num_steps = planned if request.num_steps is None else request.num_steps
        self._place = place
        self._method = method
        self._max_steps = max(1, round(request.max_seconds * environment.frames_per_s))
        self._environment = environment
        self._stop = stop

    def run(self, checkpoint: Checkpoint, output: Path, progress: Progress) -> WatchResult:
        """Do all of it; the video is written last."""
        worker = TrajectoryWorker(_here(self._place.experiment, self._num_steps))
        env_steps = self._adapt(worker, checkpoint, progress)
        seed = derive_seed(self._place.experiment.seed, "watch", self._place.name)
        episode = WatchedEpisode(worker.model, self._environment, seed, worker.device)
        progress.phase("playing", self._max_steps)
        frames = self._told(episode.frames(self._max_steps), progress)
        with disk_errors(f"{output}", "name another place with --output"):
            output.parent.mkdir(parents=True, exist_ok=True)
            write_video(output, frames, self._environment.frames_per_s)
        result = WatchResult(
            task=self._place.name,
            method=self._method,
            inner_steps=self._num_steps,
            env_steps=env_steps,
            episode_return=episode.episode_return,
            length=episode.length,
            has_ended=episode.has_ended,
            seconds=(episode.length + 1) / self._environment.frames_per_s,
            video=output,
        )
        logger.info("watched: %s", result)
        return result

    def _adapt(self, worker: TrajectoryWorker, checkpoint: Checkpoint, progress: Progress) -> int:
        """Leave the adapted model in the worker; return the env steps that it took."""
        version, place = checkpoint.step, self._place
        spec = TaskSpec(
            meta_step=version, index=0, task_id=place.number, split=place.split, version=version,
            purpose="evaluate", method=self._method,
        )  # fmt: skip
        progress.phase(f"adapting to {place.name}", self._num_steps)

        def after_segment(num_steps: int) -> None:
            progress.advance(num_steps)
            self._check()

        loop = worker.begin(spec, [checkpoint.params])
        return adapt(loop, self._num_steps, place.experiment.inner.segment_steps, after_segment)

    def _told(self, frames: Iterator[Frame], progress: Progress) -> Iterator[Frame]:
        for frame in frames:
            self._check()
            yield frame
            progress.advance()

    def _check(self) -> None:
        try:
            self._stop.check()
        except InterruptedRunError as error:
            raise InterruptedRunError(f"{error}; no video was written") from None


def _method(experiment: Experiment, name: str) -> str:
    known = (experiment.algorithm.name, *BASELINES)
    if name and name not in known:
        raise BadInputError(f"method '{name}': expected {' or '.join(known)}")
    return name or known[0]


def _output(run: RunFolder, place: Place, method: str, output: Path | None) -> Path:
    """Return where the video goes, checked."""
    if output is not None:
        check_video(output)
        return output
    of_method = f"-{method}" if method in BASELINES else ""
    path = run.videos / f"{NO_PART_OF_A_NAME.sub('-', place.name)}{of_method}.mp4"
    check_encoder(path)
    return path


def _here(experiment: Experiment, num_steps: int) -> Experiment:
    """Return the experiment for a worker in this process, whatever machine the run was on."""
    evaluation = experiment.evaluation.model_copy(update={"num_steps": max(1, num_steps)})
    workers = experiment.workers.model_copy(update={"device": "auto"})
    return experiment.model_copy(update={"evaluation": evaluation, "workers": workers})


def _track(run: RunFolder, experiment: Experiment, video: Path, stop: StopRequest) -> None:
    """Hand the video to the run's tracker; how the run itself stands is left as it is."""
    stop.what_follows = "MLflow is not waited for any longer"
    uri = tracking_uri(experiment.tracking.uri, home())
    tracker = Tracker(uri, experiment.tracking.experiment, run.path)
    tracker.log_artifact(video, "videos")
    tracker.finish(None, FINISH_TIMEOUT_S, lambda: bool(stop.signal_name))
