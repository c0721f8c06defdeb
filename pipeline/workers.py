"""The worker that an experiment needs, by the family of its meta-learner."""

from __future__ import annotations

from pipeline.config import Experiment
from pipeline.learners import is_episodic
from pipeline.trajectory_worker import TrajectoryWorker
from pipeline.worker import Worker


def make_worker(experiment: Experiment) -> Worker:
    """Return a worker; BadInputError for a device or data that are not there."""
    if is_episodic(experiment):
        from pipeline.episode_worker import EpisodeWorker

        return EpisodeWorker(experiment)
    return TrajectoryWorker(experiment)
