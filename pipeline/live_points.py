"""Points of tasks under way, for tasks that take hours: curves that go on within an outer step.

    live/pong/return: step = outer steps taken × inner steps of the task + inner steps taken in it

A key's steps only grow: where a task is begun again, MetricLog skips the points up to where it
was. Points are as far apart as the clock says, and so not the same from run to run.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping

from pipeline.progress import TaskProgress

MAX_NAMES = 100  # of tasks; MLflow shows a run of more than 1,000 keys badly
MAX_NAME_CHARACTERS = 200

logger = logging.getLogger(__name__)


class LivePoints:
    """Logs how tasks under way stand, each at most once in `every_s` seconds; 0: never.

    Args:
        log: Takes a step and its values, such as `Tracker.log_metrics`.
        every_s: A task that ends sooner has no points.
        known: Keys that the run has already, from an earlier process.
    """

    def __init__(
        self,
        log: Callable[[int, Mapping[str, float]], None],
        every_s: float,
        known: Iterable[str] = (),
    ) -> None:
        self._log = log
        self._every_s = every_s
        parts = [key.split("/") for key in known]
        self._names = {part[1] for part in parts if part[0] == "live" and len(part) == 3}
        self._logged: dict[str, float] = {}  # when a name's last point was
        self._is_full = False

    def take(self, task: TaskProgress, meta_step: int, now: float) -> None:
        """Log how `task` of outer step `meta_step` stands, if it is time."""
        name = live_name(task.name)
        since = max(task.begun, self._logged.get(name, task.begun))
        if not self._every_s or now - since < self._every_s or not self._has_room(name):
            return
        self._logged[name] = now
        figures = {
            "inner_steps": task.steps,
            "env_steps": task.env_steps,
            "return": task.episode_return,
            "loss": task.loss,
            "inner_steps_per_s": task.steps_per_s,
            "eta_s": task.eta_s,
        }
        known = {
            f"live/{name}/{key}": float(value)
            for key, value in figures.items()
            if value is not None and math.isfinite(value)
        }
        self._log(meta_step * task.num_steps + task.steps, known)

    def _has_room(self, name: str) -> bool:
        if name in self._names:
            return True
        if len(self._names) < MAX_NAMES:
            self._names.add(name)
            return True
        if not self._is_full:
            self._is_full = True
            logger.warning(
                "live/… in MLflow: the run has curves of %d tasks under way, and gets no more; "
                "'%s' is the first without",
                MAX_NAMES,
                name,
            )
        return False


def live_name(task: str) -> str:
    """Return the name of a task as MLflow takes it within a key: CartPole-v1 #train-3 loses its #.

    A slash would begin a part of its own, and a part of dots alone would vanish. Of a long path
    the end is kept, where a second task's number is.
    """
    name = re.sub(r"[^\w\-. :]", "_", task.replace("#", ""))[-MAX_NAME_CHARACTERS:]
    return name.strip(" .") or "_"
