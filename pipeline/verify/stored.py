"""A run as MLflow has it, if MLflow answers in time; nothing is made or changed there."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.mlflow_run import MlflowReader, StoredRun, is_refusal
from pipeline.reasons import plain_reason
from pipeline.verify.curves import Curve


class NotInMlflowError(Exception):
    """MLflow answered, and has no such run."""


class NoAnswerError(Exception):
    """MLflow could not be asked; the message says why."""


class DamagedStoreError(Exception):
    """The database of this machine that the run is in is gone or damaged; the message says how."""


@dataclass(frozen=True, slots=True)
class Files:
    """What MLflow has of a run in files."""

    artifacts: dict[str, int | None] = field(default_factory=dict)  # path → size in bytes
    models: dict[str, set[str]] = field(default_factory=dict)  # `model_label` → names of files
    not_listed: str = ""  # why nobody knows; empty: these are all


@dataclass(frozen=True, slots=True)
class Stored:
    """The run and all its points, by metric."""

    run: StoredRun
    curves: dict[str, Curve]
    files: Files


def fetch(uri: str, run_id: str, folders: Iterable[str], timeout_s: float) -> Stored:
    """Return the run `run_id` with all its points, and its files in `folders` of the artifacts.

    Raises:
        NotInMlflowError: There is none.
        NoAnswerError: MLflow could not be asked within the time.
        DamagedStoreError: It is a database of this machine, and gone or damaged.
    """
    answers: queue.Queue[Stored | BaseException] = queue.Queue()
    # MLflow's own attempts can take minutes and cannot be ended: the thread is left behind.
    arguments = (uri, run_id, tuple(folders), answers)
    threading.Thread(target=_answer, args=arguments, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise NoAnswerError(f"no answer within {timeout_s:g} s") from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _answer(
    uri: str, run_id: str, folders: tuple[str, ...], answers: queue.Queue[Stored | BaseException]
) -> None:
    from pipeline.verify.database import read_database  # which has these errors from here

    try:
        if uri.partition(":///")[0].partition("+")[0] == "sqlite":
            path = Path(uri.partition(":///")[2].partition("?")[0])
            answers.put(read_database(path, run_id, folders))
        else:
            answers.put(_ask(uri, run_id, folders))
    except (NotInMlflowError, NoAnswerError, DamagedStoreError) as error:
        answers.put(error)
    except BaseException as error:  # all that MLflow, its database or its network can raise
        answers.put(NoAnswerError(plain_reason(error)))


def _ask(uri: str, run_id: str, folders: tuple[str, ...]) -> Stored:
    reader = MlflowReader(uri, run_id)
    try:
        run = reader.run()
    except Exception as error:
        if is_refusal(error):
            raise NotInMlflowError(run_id) from None
        raise
    curves: dict[str, Curve] = {}
    for key in run.keys:
        curve = curves[key] = Curve()
        for point in reader.points(key):
            curve.add(point)
    return Stored(run, curves, _files(reader, folders))


def _files(reader: MlflowReader, folders: tuple[str, ...]) -> Files:
    try:
        artifacts: dict[str, int | None] = {}
        for folder in folders:
            artifacts |= reader.artifacts(folder)
        return Files(artifacts, reader.models())
    except Exception as error:  # they may lie in storage that nobody can list from here
        return Files(not_listed=plain_reason(error))
