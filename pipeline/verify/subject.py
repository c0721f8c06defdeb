"""What the checks know of the run that they look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.budgets import spent
from pipeline.dispatcher import Counters
from pipeline.files import DISPLACED, TEMPORARY
from pipeline.runs import RunFolder
from pipeline.task_kinds import ENVIRONMENT_KINDS

if TYPE_CHECKING:
    from pipeline.config import Experiment


@dataclass(frozen=True, slots=True)
class Sound:
    """A checkpoint that is sound, without its vectors."""

    step: int
    counters: Counters
    schedule: dict[str, Any]
    experiment: dict[str, Any]  # what the run was trained with, by dotted key
    data: str  # digest of it; empty: it does not say
    parameters_sha256: str
    parameters_norm: float


@dataclass(frozen=True, slots=True)
class Subject:
    """The run, and what its own files say of how far it is.

    `is_live`: a process is at work on it. Then whatever it may be in the middle of is left alone:
    only what comes before its newest checkpoint has to be whole.
    """

    run: RunFolder
    is_live: bool
    experiment: Experiment | None  # None: config.yaml is damaged
    checkpoints: tuple[Sound, ...]  # of the run, ascending
    summary: dict[str, Any] | None  # None: there is none, or it is damaged
    differing: frozenset[str] = frozenset()  # keys of config.yaml that no checkpoint bears out

    @property
    def newest(self) -> Sound | None:
        """The newest checkpoint that is sound; None if there is none."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def steps(self) -> int:
        """Outer steps before the newest checkpoint."""
        return self.newest.step if self.newest else 0

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its end, the meta-test included, as far as is known."""
        if self.is_live or not (self.experiment and self.newest and self.summary):
            return False
        counts = self.summary.get("counts")
        if not isinstance(counts, dict) or counts.get("outer_steps") != self.newest.step:
            return False
        meta = self.experiment.meta
        over = spent(meta.model_dump(), asdict(self.newest.counters))
        return self.newest.step == meta.num_steps or bool(over)

    @property
    def state(self) -> str:
        """How the run stands, in a word."""
        if self.is_live:
            return "running"
        return "finished" if self.is_finished else "unfinished"

    @property
    def may_differ_when_repeated(self) -> bool:
        """Whether an outer step that is taken again, after a crash, can come out otherwise.

        In async mode by which tasks end first; in environments by what fails or hangs.
        """
        if self.experiment is None:
            return True
        kind, mode = self.experiment.task.kind, self.experiment.meta.mode
        return mode == "async" or kind in ENVIRONMENT_KINDS

    def name(self, path: Path) -> str:
        """Return how messages call a file of the run."""
        return str(path.relative_to(self.run.path))


def entries(folder: Path) -> list[Path]:
    """Return what is in the folder, by name; nothing if there is no such folder."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def leftovers(folder: Path) -> Iterator[Path]:
    """Yield what a process that died left half-written directly in `folder`."""
    yield from filter(is_leftover, entries(folder))


def is_leftover(path: Path) -> bool:
    """Whether a process that died left `path` half-written."""
    return path.name.startswith((TEMPORARY, DISPLACED))
