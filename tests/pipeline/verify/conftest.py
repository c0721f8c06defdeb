"""Real tiny runs of every kind, made once, and copies of them to be damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import session
from pipeline.interrupt import StopRequest
from pipeline.progress import SilentProgress
from pipeline.runs import RunFolder
from pipeline.trainer import Trainer
from tests.pipeline.environments_for_tests import control
from tests.pipeline.episodes_for_tests import tiny_episodes
from tests.pipeline.runs_for_tests import at_home, tiny

FINE = {"meta": {"batch_size": 2, "num_steps": 4}, "checkpoint": {"every": 1, "keep": 2}}


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """The home of all runs of these tests, with a store of their own."""
    folder = tmp_path_factory.mktemp("verified") / "runs"
    with at_home(folder):
        yield folder


def trained(experiment) -> RunFolder:
    return RunFolder(session.train(experiment, SilentProgress()).run_dir)


class Died(BaseException):
    """What stands for the end of the driver's process."""


def dies_after(num_segments: int, experiment) -> RunFolder:
    """Train until the driver has seen so many segments, and leave what a killed process would."""
    take, seen = Trainer._take, []

    def take_until_dead(self, segment):
        if len(seen) >= num_segments:
            raise Died
        seen.append(segment)
        return take(self, segment)

    from pipeline import runs

    before = set(runs.list_runs())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_take", take_until_dead)
        with pytest.raises(Died):
            session.train(experiment, SilentProgress())
    (name,) = set(runs.list_runs()) - before
    return RunFolder(runs.home() / name)


def interrupted(experiment, after: int) -> RunFolder:
    """Train until a request to stop comes in the middle of outer step `after`."""
    check, count = StopRequest.check, []

    def stop_some_time(self):
        count.append(1)
        self.signal_name = "SIGTERM" if len(count) > after else ""
        check(self)

    from pipeline import runs
    from pipeline.errors import InterruptedRunError

    before = set(runs.list_runs())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopRequest, "check", stop_some_time)
        with pytest.raises(InterruptedRunError):
            session.train(experiment, SilentProgress())
    (name,) = set(runs.list_runs()) - before
    return RunFolder(runs.home() / name)


@pytest.fixture(scope="session")
def image_folders(tmp_path_factory):
    """Three data sets of two classes."""
    root = tmp_path_factory.mktemp("sets")
    generator = np.random.default_rng(0)
    for number in range(3):
        for label in range(2):
            folder = root / f"set{number}" / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(10):
                pixels = (generator.integers(0, 60, (12, 12)) + 60 * label).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return [f"folder:{root / f'set{number}'}" for number in range(3)]


def experiment_of(kind: str, image_folders):
    """Return the experiment of a kind of run that goes to its end undisturbed."""
    if kind == "sync":
        return tiny(**FINE)
    if kind == "async":
        return tiny(
            meta={"mode": "async", "batch_size": 4, "num_steps": 5, "apply_every": 2},
            checkpoint={"every": 2},
        )
    if kind == "episodes":
        return tiny_episodes(
            meta={"num_steps": 4, "batch_size": 4}, checkpoint={"every": 1, "keep": 2},
            evaluation={"every": 1, "baselines": ["scratch"]},
        )  # fmt: skip
    if kind == "control":
        return control(**FINE)
    if kind == "budget":
        return tiny(meta={"batch_size": 2, "num_steps": 9, "max_inner_steps": 30})
    if kind == "inner checkpoints":
        return tiny(inner={"num_steps": 8, "segment_steps": 2, "checkpoint_every": 4}, **FINE)
    if kind == "no steps":
        return tiny(meta={"num_steps": 0})
    assert kind == "datasets"
    return tiny(
        task={"kind": "datasets", "batch_size": 4},
        datasets={"names": image_folders, "held_out": image_folders[1:2], "image_size": 16},
        model={"num_filters": 4, "num_blocks": 2, "num_pooled_blocks": 2, "shared": "body"},
        algorithm={"name": "leap", "options": {"norm": False}},
        inner={"epochs": 2, "segment_steps": 3},
        meta={"batch_size": 2, "num_steps": 2},
    )


@pytest.fixture(scope="session")
def runs(home, image_folders):
    """Gives the run of a kind; each is made once."""
    made: dict[str, RunFolder] = {}

    def of(kind: str) -> RunFolder:
        if kind not in made:
            made[kind] = trained(experiment_of(kind, image_folders))
        return made[kind]

    return of


@pytest.fixture
def copy(tmp_path):
    """Copies a run, to be damaged."""

    def copied(run: RunFolder) -> RunFolder:
        target = Path(tmp_path / run.run_id)
        shutil.copytree(run.path, target, symlinks=True)
        return RunFolder(target)

    return copied
