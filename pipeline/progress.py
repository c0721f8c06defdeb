"""What a long command tells whoever watches it; drawing it is the watcher's affair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

SHOWN = {"shown": True}  # `extra` of a log record that is told to who watches, like a warning
ENDS = {"ends": True}  # `extra` of the one that says what the command's last line will say


@dataclass(frozen=True, slots=True)
class OuterProgress:
    """How meta-training stands after an outer step."""

    step: int  # outer steps taken
    num_steps: int
    loss_first: float  # mean training loss over the meta-batch at the first inner step
    loss_last: float  # the same at the last inner step
    grad_norm: float  # of the averaged outer gradient
    inner_steps_per_s: float
    tasks_in_flight: int
    eta_s: float | None  # None before there is anything to go by
    retries: int  # in the run so far
    dropped: int  # tasks left out of their update in the run so far
    of_episodes: bool = False  # whether a step within a task is an episode, not an inner step
    episode_return: float | None = None  # mean over environments; of reinforcement learning

    @property
    def is_last(self) -> bool:
        """Whether it ends meta-training: all steps are taken, or a budget is used up."""
        return self.step == self.num_steps or self.eta_s == 0


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How a task stands that is under way; times are of `time.monotonic`."""

    name: str  # within its meta-batch no two are alike
    place: int  # in the meta-batch
    steps: int  # inner steps taken
    num_steps: int  # of how many
    env_steps: int | None  # None but in environments
    episode_return: float | None  # mean of the newest segment in which episodes ended, if any did
    loss: float  # mean of the newest segment
    steps_per_s: float | None  # over the recent segments
    eta_s: float | None
    begun: float  # when its first inner step was, as far as is known
    heard: float  # when its newest segment arrived
    overdue: float  # when the next one is later than segments of this task are


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How a meta-batch or a meta-test stands while its tasks run."""

    title: str  # which it is
    tasks: tuple[TaskProgress, ...]  # those under way that are worth a line, by their place
    steps: int  # inner steps taken, of all its tasks, ended ones included
    num_steps: int
    eta_s: float | None
    of_tasks: bool = False  # whether a step is a whole task: async, where they are not known yet


def eta(seconds: float | None) -> str:
    """Return a time to go as m:ss or h:mm:ss."""
    if seconds is None:
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def figures(progress: OuterProgress) -> list[str]:
    """Return what is worth knowing of an outer step besides its number, most telling first."""
    faults = (("retries", progress.retries), ("dropped", progress.dropped))
    path = "" if progress.of_episodes else f"{progress.loss_first:.3f} → "
    steps = "episodes" if progress.of_episodes else "inner steps"
    returns = progress.episode_return
    return [
        *([] if returns is None else [f"return {returns:.1f}"]),
        f"loss {path}{progress.loss_last:.3f}",
        *(f"{count} {name}" for name, count in faults if count),
        f"outer grad {progress.grad_norm:.3g}",
        f"{progress.inner_steps_per_s:.0f} {steps}/s",
        f"{progress.tasks_in_flight} tasks in flight",
    ]


def line_of(progress: OuterProgress) -> str:
    """Return all of it as a line of text."""
    step = f"step {progress.step}/{progress.num_steps}"
    return "  ".join([step, f"ETA {eta(progress.eta_s)}", *figures(progress)])


def batch_figures(batch: BatchProgress) -> list[str]:
    """Return how the meta-batch is as a whole, most telling first."""
    unit = "tasks ended" if batch.of_tasks else "inner steps"
    steps = f"{batch.steps:,}/{batch.num_steps:,} {unit}"
    return [batch.title, f"ETA {eta(batch.eta_s)}", steps]


def task_count(task: TaskProgress) -> str:
    """Return how far a task is."""
    return f"{task.steps:,}/{task.num_steps:,}"


def task_figures(task: TaskProgress, now: float) -> list[str]:
    """Return what else is worth knowing of a task, most telling first."""
    silent = now > task.overdue
    returns, env_steps = task.episode_return, task.env_steps
    return [
        *([f"no news for {eta(now - task.heard)}"] if silent else []),
        *([] if returns is None else [f"return {returns:.1f}"]),
        *([] if env_steps is None else [f"{_short(env_steps)} env steps"]),
        f"loss {task.loss:.3g}",
    ]


def batch_lines(batch: BatchProgress, now: float) -> list[str]:
    """Return a line of text for the meta-batch and one for each of its tasks under way."""
    names = _aligned([task.name for task in batch.tasks])
    lines = ["  ".join(batch_figures(batch))]
    for name, task in zip(names, batch.tasks, strict=True):
        figures = [task_count(task), f"ETA {eta(task.eta_s)}", *task_figures(task, now)]
        lines.append("  ".join(["", name, *figures]))
    return lines


def _aligned(texts: Sequence[str]) -> list[str]:
    width = max(map(len, texts), default=0)
    return [text.ljust(width) for text in texts]


def _short(count: int) -> str:
    """Return a count in three or four digits: 340, 12.4k, 2.0M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.1f}{name}"
    return str(count)


class Progress(Protocol):
    """Receives what happens, in order, from the one thread that runs the command."""

    def outer_step(self, progress: OuterProgress) -> None:
        """Meta-training took an outer step."""

    def tasks(self, batch: BatchProgress) -> None:
        """Tasks that take long have gone on; told at most every 0.5 s, of none once they end."""

    def phase(self, name: str, total: int) -> None:
        """Something of `total` parts begins, e.g. the meta-test's adaptations; ends the last."""

    def advance(self, amount: int = 1) -> None:
        """`amount` more parts of the phase are done."""

    def message(self, text: str) -> None:
        """Something worth a line: a warning, a checkpoint that was restored."""

    def at_once(self, text: str) -> None:
        """A message from a signal handler: say it, and wait for no lock."""

    def last_words(self, line: str, exit_code: int) -> None:
        """The process ends now, in a signal handler: say why, and wait for no lock."""


class SilentProgress:
    """Shows nothing."""

    def outer_step(self, progress: OuterProgress) -> None:
        """Ignore it."""

    def tasks(self, batch: BatchProgress) -> None:
        """Ignore it."""

    def phase(self, name: str, total: int) -> None:
        """Ignore it."""

    def advance(self, amount: int = 1) -> None:
        """Ignore it."""

    def message(self, text: str) -> None:
        """Ignore it."""

    def at_once(self, text: str) -> None:
        """Ignore it."""

    def last_words(self, line: str, exit_code: int) -> None:
        """Ignore it."""
