"""A run in a sqlite database of MLflow's, read as it lies there.

MLflow's own client would set up what it finds missing, so it is not asked. Nothing is written: the
database is opened read-only, and where even that would take a write, because a process died in the
middle of one or by its mode, a temporary copy is opened.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from pipeline.metric_log import MetricPoint
from pipeline.mlflow_models import MODEL_FILES, STEP_TAG
from pipeline.mlflow_run import TRACKING_ID_TAG, StoredRun
from pipeline.sent_record import model_label
from pipeline.verify.curves import Curve
from pipeline.verify.stored import DamagedStoreError, Files, NoAnswerError, NotInMlflowError, Stored

BUSY_S = 10.0  # for a writer to let go of a database
MODES = slice(18, 20)  # of the header's bytes
ROLLBACK_JOURNAL = b"\1\1"  # else reading makes files beside it
BESIDE = ("-journal", "-wal")
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
HOME = 2  # of the parents of <home>/mlartifacts/<run>/artifacts
TABLES = frozenset(
    ("alembic_version", "experiments", "runs", "metrics", "latest_metrics", "params", "tags",
     "datasets", "inputs", "input_tags", "logged_models", "logged_model_tags")
)  # fmt: skip


def read_database(path: Path, run_id: str, folders: tuple[str, ...]) -> Stored:
    """Return the run `run_id` with all its points, and its files in `folders` of the artifacts.

    Raises:
        NotInMlflowError: It is not in the database.
        NoAnswerError: The database is of another machine, or held by a writer.
        DamagedStoreError: It is gone, or not what MLflow wrote.
    """
    if not path.exists():
        if not path.parent.is_dir():
            raise NoAnswerError(f"there is no folder {path.parent} on this machine")
        raise DamagedStoreError("is gone")
    if not path.is_file():
        raise DamagedStoreError("is no file")
    try:
        with _opened(path) as database:
            _check_whole(database)
            return _read(database, run_id, folders)
    except sqlite3.Error as error:
        if _name(error).startswith(DAMAGED):
            raise DamagedStoreError(f"is damaged ({error})") from None
        raise NoAnswerError(str(error)) from None
    except (TypeError, ValueError, OverflowError):
        raise DamagedStoreError("is damaged (it holds rows that MLflow does not write)") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with path.open("rb") as file:
        is_plain = file.read(MODES.stop)[MODES] == ROLLBACK_JOURNAL
    if is_plain and _is_readable(path):
        with contextlib.closing(_connected(path, "ro")) as database:
            yield database
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        for end in ("", *BESIDE):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{end}", f"{copy}{end}")
        with contextlib.closing(_connected(copy, "rw")) as database:
            yield database


def _is_readable(path: Path) -> bool:
    """Whether nothing of a writer that died has to be taken back first."""
    try:
        with contextlib.closing(_connected(path, "ro")) as database:
            database.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if _name(error).startswith("SQLITE_READONLY"):
            return False
        raise
    return True


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    database = sqlite3.connect(f"file:{quote(str(path))}?mode={mode}", uri=True, timeout=BUSY_S)
    database.text_factory = lambda data: data.decode(errors="replace")
    return database


def _name(error: sqlite3.Error) -> str:
    return getattr(error, "sqlite_errorname", "")  # there is none of what Python itself finds


def _check_whole(database: sqlite3.Connection) -> None:
    found = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    if missing := sorted(TABLES - found):
        raise DamagedStoreError(f"has no table {', '.join(missing)}")
    (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise DamagedStoreError(f"is damaged ({said})")


def _read(database: sqlite3.Connection, run_id: str, folders: tuple[str, ...]) -> Stored:
    of_run = "FROM runs WHERE run_uuid = ?"
    row = database.execute(f"SELECT status, lifecycle_stage, artifact_uri {of_run}", (run_id,))
    if (found := row.fetchone()) is None:
        raise NotInMlflowError(run_id)
    status, stage, address = found

    def pairs(table: str) -> dict[str, str]:
        rows = database.execute(f"SELECT key, value FROM {table} WHERE run_uuid = ?", (run_id,))
        return {str(key): str(value) for key, value in rows}

    run = StoredRun(
        status=str(status),
        is_deleted=stage != "active",
        tracking_id=pairs("tags").get(TRACKING_ID_TAG, ""),
        params=pairs("params"),
        keys=tuple(sorted(pairs("latest_metrics"))),
    )
    return Stored(run, _curves(database, run_id), _files(database, run_id, str(address), folders))


def _curves(database: sqlite3.Connection, run_id: str) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    columns = "key, step, value, timestamp, is_nan"
    rows = database.execute(f"SELECT {columns} FROM metrics WHERE run_uuid = ?", (run_id,))
    for key, step, value, time_ms, is_nan in rows:
        point = MetricPoint(str(key), step, math.nan if is_nan else float(value), time_ms)
        curves.setdefault(point.key, Curve()).add(point)
    return curves


def _files(
    database: sqlite3.Connection, run_id: str, address: str, folders: tuple[str, ...]
) -> Files:
    rows = database.execute(
        "SELECT name, tag_value, artifact_location FROM logged_models JOIN logged_model_tags "
        "USING (model_id) WHERE tag_key = ? AND source_run_id = ? AND lifecycle_stage = 'active'",
        (STEP_TAG, run_id),
    )
    models = {model_label(name, int(step)): _local(str(place)) for name, step, place in rows}
    root = _local(address)
    places = [place for place in (root, *models.values()) if place is not None]
    if root is None or len(places) <= len(models) or not root.parents[HOME].is_dir():
        return Files(not_listed=f"they are at {address}, which is no folder of this machine")
    artifacts: dict[str, int | None] = {}
    for folder in folders:
        sizes = _sizes(root / folder)
        artifacts |= {f"{folder}/{name}".lstrip("/"): size for name, size in sizes.items()}
    of_models = {
        label: {*_sizes(at), *_sizes(at / MODEL_FILES)} for label, at in models.items() if at
    }
    return Files(artifacts, of_models)


def _local(address: str) -> Path | None:
    """Return the folder that an address means; None if it is of something else."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if parts.scheme else Path(address)


def _sizes(folder: Path) -> dict[str, int]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.name: path.stat().st_size for path in found if path.is_file()}
