"""What a job brings with it to the cluster: a folder with outerloop's code and the experiment.

The packages are taken from where this process imports them, so that a change that was made here a
minute ago is what runs there. Nothing else of the folder around them goes along. A wheel would
have to be installed on each node for each job; a folder is unpacked once a node.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import algorithms
import jobs
import pipeline
from pipeline.config import Experiment, to_yaml
from pipeline.errors import BadInputError

EXPERIMENT = "experiment.yaml"
MAX_BYTES = 100 << 20  # what Ray takes by default is 500 MiB, of a cluster's memory
LEFT_OUT = ("__pycache__", ".*", "*.pyc", "runs", "mlruns", "node_modules", "*.egg-info")
OWN = ("algorithms", "pipeline", "jobs", EXPERIMENT)


@contextmanager
def shipment(experiment: Experiment | None, include: Sequence[Path]) -> Iterator[Path]:
    """Give a folder to ship while the block runs: code, the experiment if any, and `include`.

    Raises BadInputError for something to include that is not there, bears a name of ours, or is
    too large.
    """
    with tempfile.TemporaryDirectory(prefix="outerloop-job-") as name:
        folder = Path(name)
        for package in (algorithms, pipeline, jobs):
            source = Path(package.__path__[0])
            shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns(*LEFT_OUT))
        _describe(folder)
        if experiment is not None:
            (folder / EXPERIMENT).write_text(to_yaml(experiment), encoding="utf-8")
        for path in include:
            _add(path, folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size > MAX_BYTES:
            raise BadInputError(
                f"--include: {size >> 20} MiB in all; at most {MAX_BYTES >> 20} go along with a "
                "job: put data where every node sees it, and set OUTERLOOP_DATA"
            )
        yield folder


def _describe(folder: Path) -> None:
    """Leave behind what tells the code there of which version it is."""
    about = folder / f"outerloop-{metadata.version('outerloop')}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: outerloop\nVersion: {metadata.version('outerloop')}\n"
    )


def _add(path: Path, folder: Path) -> None:
    path = path.resolve()
    target = folder / path.name
    if path.name in OWN or target.exists():
        raise BadInputError(f"--include {path}: there is a '{path.name}' already; rename it")
    try:
        if path.is_dir():
            shutil.copytree(path, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
        else:
            shutil.copyfile(path, target)
    except (OSError, shutil.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInputError(f"--include {path}: cannot be read: {reason}") from None
