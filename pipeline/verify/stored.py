"""A run as MLflow has it, if MLflow answers in time; nothing is made or changed there."""

from __future__ import annotations

import queue
import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pipeline.mlflow_run import SQLITE, MlflowReader, StoredRun, is_refusal
from pipeline.reasons import plain_reason
from pipeline.verify.curves import Curve

BUSY_S = 10.0  # for a writer to let go of a database


class NotInMlflowError(Exception):
    """MLflow answered, and has no such run."""


class NoAnswerError(Exception):
    """MLflow could not be asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The run and all its points, by metric."""

    run: StoredRun
    curves: dict[str, Curve]


def fetch(uri: str, run_id: str, timeout_s: float) -> Stored:
    """Return the run `run_id` with all its points.

    Raises:
        NotInMlflowError: There is none.
        NoAnswerError: MLflow could not be asked within the time.
    """
    answers: queue.Queue[Stored | BaseException] = queue.Queue()
    # MLflow's own attempts can take minutes and cannot be ended: the thread is left behind.
    threading.Thread(target=_answer, args=(uri, run_id, answers), daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise NoAnswerError(f"no answer within {timeout_s:g} s") from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _answer(uri: str, run_id: str, answers: queue.Queue[Stored | BaseException]) -> None:
    try:
        answers.put(_fetch(uri, run_id))
    except (NotInMlflowError, NoAnswerError) as error:
        answers.put(error)
    except BaseException as error:  # all that MLflow, its database or its network can raise
        answers.put(NoAnswerError(plain_reason(error)))


def _fetch(uri: str, run_id: str) -> Stored:
    if uri.startswith(SQLITE):
        _look_into_database(Path(uri.removeprefix(SQLITE).partition("?")[0]), run_id)
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
    return Stored(run, curves)


def _look_into_database(path: Path, run_id: str) -> None:
    """Raise unless the run is in the database: to MLflow's client, a new one is one to set up."""
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=BUSY_S)
        ) as database:
            database.execute("SELECT 1 FROM experiments").fetchone()
            found = database.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
    except sqlite3.Error as error:
        raise NoAnswerError(str(error)) from None
    if found is None:
        raise NotInMlflowError(run_id)
