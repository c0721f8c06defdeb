"""The folder of a run: where it is, what lies in it, how it is found again.

$OUTERLOOP_HOME/<run id>/
    config.yaml     the resolved experiment
    checkpoints/    trajectories/    in_flight/    snapshots/
    evaluation/     plots/           videos/
    summary.json    log.txt
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.copy_manifest import COPIES
from pipeline.errors import BadInputError
from pipeline.files import disk_errors, read_object, remove_leftovers, write_atomic
from pipeline.locks import HeldError, locked_file
from pipeline.redaction import redact
from pipeline.storage import is_address

if TYPE_CHECKING:  # the configuration imports torch, which a listing of runs can do without
    from pipeline.config import Experiment

MAX_SUMMARY_BYTES = 16 << 20
TIME_FORMAT = "%Y%m%d-%H%M%S"
RUN_ID = re.compile(r"[\w][\w.=,+-]{0,199}")
MADE = re.compile(r"-(\d{8}-\d{6})-[0-9a-f]{6}$")  # the end of a run's id
NUM_RUNS_NAMED = 5  # in an error message


def home() -> Path:
    """Return the folder of all runs: OUTERLOOP_HOME, by default ./runs. It need not exist."""
    return Path(os.environ.get("OUTERLOOP_HOME") or "runs").expanduser().absolute()


def check_home() -> None:
    """Raise BadInputError unless runs can be made in the home."""
    try:
        home().mkdir(parents=True, exist_ok=True)
        probe = home() / f".probe-{secrets.token_hex(3)}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise _unwritable(error) from None


def _unwritable(error: OSError) -> BadInputError:
    return BadInputError(
        f"{home()}: a run's folder cannot be made here: {error.strerror}; "
        "set OUTERLOOP_HOME to a folder that can be written"
    )


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run on disk. `path` is a folder with a config.yaml."""

    path: Path

    @classmethod
    def create(cls, experiment: Experiment, run_id: str = "") -> RunFolder:
        """Make the folder of a new run of `experiment`, with its config.yaml.

        Its id is `run_id`, by default a new one. The folder appears under its name only when it is
        complete. BadInputError if the home cannot be written, or the id cannot be a folder's name.
        """
        from pipeline.config import to_yaml

        run_id = run_id or new_run_id(experiment.name)
        check_run_id(run_id)
        draft = home() / f".{run_id}"
        try:
            draft.mkdir(parents=True)
            for folder in ("checkpoints", "trajectories", "evaluation", "plots"):
                (draft / folder).mkdir()
            write_atomic(draft / "config.yaml", to_yaml(experiment).encode())
            (draft / "log.txt").touch()
            draft.rename(home() / run_id)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise _unwritable(error) from None
        return cls(home() / run_id)

    @classmethod
    def open(cls, text: str, may_be_damaged: bool = False) -> RunFolder:
        """Find the run that `text` names: a run id, the unique beginning of one, or a path.

        BadInputError for an unknown or ambiguous id, for a folder that is no run, for the address
        of a copy, and for a run without config.yaml, unless it `may_be_damaged`.
        """
        if is_address(text):
            raise _no_folder(text)
        names = list_runs()
        if text in names:
            return cls(home() / text)
        is_id = RUN_ID.fullmatch(text) is not None
        for path in [home() / text] * is_id + [Path(text)] * bool(text):
            if os.path.exists(path):
                return cls._at(path, may_be_damaged)
        matches = [name for name in names if text and name.startswith(text)]
        if len(matches) == 1:
            return cls(home() / matches[0])
        if matches:
            raise BadInputError(f"run '{text}' is ambiguous: {_first_of(matches)}")
        raise BadInputError(f"unknown run '{text}'; {_hint(text, names)}")

    @classmethod
    def _at(cls, path: Path, may_be_damaged: bool) -> RunFolder:
        if not path.is_dir():
            raise BadInputError(f"{path}: is a file; expected the folder of a run")
        run = cls(path.absolute())
        if run.config.is_file() or (may_be_damaged and run.checkpoints.is_dir()):
            return run
        if not run.checkpoints.is_dir():
            if (path / COPIES).is_dir():
                raise _no_folder(str(path))
            raise BadInputError(f"{path}: is no run: it holds no config.yaml; runs are in {home()}")
        problem = "is no file" if os.path.lexists(run.config) else "is missing"
        raise BadInputError(
            f"{run.config}: {problem}; put it back: MLflow has it among the run's artifacts, and "
            "so has every copy of the run"
        )

    @property
    def run_id(self) -> str:
        """The run's name, which is its folder's."""
        return self.path.name

    def made(self) -> datetime:
        """Return when the run was made, in local time: as its id says, whatever came since.

        Of a folder under another name, when its configuration was written last.
        """
        if match := MADE.search(self.run_id):
            with contextlib.suppress(ValueError, OverflowError):  # digits of no time
                return datetime.strptime(f"{match[1]}+0000", f"{TIME_FORMAT}%z").astimezone()
        return datetime.fromtimestamp(self.config.stat().st_mtime).astimezone()

    @property
    def config(self) -> Path:
        """The resolved experiment, as YAML."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def trajectories(self) -> Path:
        """Folder of the Parquet files of inner steps."""
        return self.path / "trajectories"

    @property
    def in_flight(self) -> Path:
        """Folder of the tasks under way: rows so far, checkpoints inside them."""
        return self.path / "in_flight"

    @property
    def evaluation(self) -> Path:
        """Folder of the meta-test's Parquet files."""
        return self.path / "evaluation"

    @property
    def plots(self) -> Path:
        """Folder of the PNG files."""
        return self.path / "plots"

    @property
    def videos(self) -> Path:
        """Folder of the videos of agents; made with the first."""
        return self.path / "videos"

    @property
    def metrics(self) -> Path:
        """The run's own record of its curves."""
        return self.path / "tracking" / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """What the run said, line by line."""
        return self.path / "log.txt"

    @property
    def summary(self) -> Path:
        """The run's figures, as JSON."""
        return self.path / "summary.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes off this run while the block runs.

        BadInputError if one is at work on it. The lock ends with the process, however it ends.
        """
        with ExitStack() as stack:
            with disk_errors(f"{self.path}", "mend the folder, then try again"):
                try:
                    stack.enter_context(locked_file(self.path / ".lock"))
                except HeldError as holder:
                    raise BadInputError(
                        f"run {self.run_id} is in use by {holder}; wait for it, or stop it"
                    ) from None
                remove_leftovers(self.path)
            yield

    def is_in_use(self) -> bool:
        """Whether a process is at work on this run; looks at the lock and takes none."""
        path = self.path / ".lock"
        if not path.is_file():
            return False
        with contextlib.suppress(OSError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def read_experiment(self) -> Experiment:
        """Return the experiment that this is a run of; BadInputError if its file is damaged."""
        from pipeline.config import load_experiment

        return load_experiment(self.config)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace summary.json; whatever happens, the old or the new one is there, whole."""
        write_atomic(self.summary, (json_text(summary, indent=2) + "\n").encode())

    def read_summary(self) -> dict[str, Any]:
        """Return what `write_summary` wrote last, nothing if it never did.

        BadInputError for a file that is no JSON object.
        """
        try:
            return read_object(self.summary, MAX_SUMMARY_BYTES)
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise BadInputError(
                f"{self.summary}: {error}; expected what `outerloop train` wrote; remove it to go "
                "on without"
            ) from None


def new_run_id(name: str) -> str:
    """Return an id for a run of the experiment `name`: that, the time (UTC), six random digits."""
    made = datetime.now(UTC).strftime(TIME_FORMAT)
    return f"{name}-{made}-{secrets.token_hex(3)}"


def check_run_id(run_id: str) -> None:
    """Raise BadInputError unless `run_id` can be a run's id, and so a folder's name."""
    if not RUN_ID.fullmatch(run_id):
        raise BadInputError(
            f"run id '{run_id:.100}': expected at most 200 letters, digits and any of _ . = , + -, "
            "a letter, digit or _ first"
        )


def list_runs() -> list[str]:
    """Return the ids of the runs in the home, newest first.

    BadInputError if the home cannot be read; an absent one holds no runs.
    """
    try:
        runs = [RunFolder(p) for p in home().iterdir() if (p / "config.yaml").is_file()]
        # Several are made in one second, but seldom resumed in the same.
        made = {run.run_id: (run.made(), run.config.stat().st_mtime_ns) for run in runs}
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadInputError(
            f"{home()}: runs cannot be read here: {error.strerror}; set OUTERLOOP_HOME"
        ) from None
    names = [name for name in made if not name.startswith(".")]
    return sorted(names, key=lambda name: (made[name], name), reverse=True)


def json_text(value: Any, indent: int | None = None) -> str:
    """Return `value` as standard JSON: a NaN or an infinity, which JSON has not, becomes null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def _no_folder(address: str) -> BadInputError:
    shown = redact(address)
    return BadInputError(
        f"'{shown}' holds copies of a run; expected the folder, or the id, of a run on this "
        f"machine: `outerloop train --resume {shown}` brings the newest sound copy here"
    )


def _hint(text: str, names: list[str]) -> str:
    if not names:
        return f"there is none in {home()}"
    near = get_close_matches(text, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"newest in {home()}: {_first_of(names)}"


def _first_of(names: list[str]) -> str:
    rest = len(names) - NUM_RUNS_NAMED
    return ", ".join(names[:NUM_RUNS_NAMED]) + (f" and {rest} more" if rest > 0 else "")
