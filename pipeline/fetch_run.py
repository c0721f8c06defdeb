"""A run brought back from its copies, into the home, to be gone on with here.

Everything is written to a hidden folder and checked while it comes: sizes, checksums, names. The
folder takes the run's name only when it is whole. Nothing that a copy says leads out of it.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from contextlib import ExitStack
from pathlib import Path

from pipeline.checkpoint import CheckpointStore
from pipeline.config import load_experiment, to_yaml
from pipeline.copy_lineage import (
    ElsewhereError,
    Known,
    check_owner,
    is_newer,
    read_manifests,
    write_known,
)
from pipeline.copy_manifest import COPIES, CopyManifest
from pipeline.errors import BadInputError, OuterloopError, RunFailedError
from pipeline.fetch_copy import CONFIG, Fetching
from pipeline.files import sync_folder, write_atomic
from pipeline.locks import HeldError, locked_file
from pipeline.outbox import drop_foreign_items
from pipeline.progress import Progress
from pipeline.redaction import holds_password, redact
from pipeline.runs import RUN_ID, RunFolder, check_home, check_run_id, home, list_runs
from pipeline.storage import (
    Storage,
    absolute_address,
    below,
    check_address,
    is_address,
    parent_and_name,
    reason_of,
)
from pipeline.tracking_marks import DELIVERED, FETCHED

logger = logging.getLogger(__name__)


class NoCopyError(BadInputError):
    """There is no sound copy of a run at an address that answers."""


def open_run(
    text: str, progress: Progress, is_to_go_on: bool = True, take_over: bool = False
) -> RunFolder:
    """Find the run that `text` names in the home, or fetch it if that is the address of a copy.

    Args:
        text: As of `RunFolder.open`, or `<copy_to>/<run id>`.
        progress: Is told what is fetched.
        is_to_go_on: Whether the run is to be gone on with, and not only looked at.
        take_over: Go on with it even if another machine is at work on it.

    Raises:
        BadInputError: There is no such run; it is here already, and its copy is no newer; or
            another machine is at work on it.
        RunFailedError: The storage does not answer, or no copy there is sound.
    """
    if not is_address(text) and not _is_folder_of_copies(text):
        return RunFolder.open(text)
    return _open_copy(text, progress, is_to_go_on, take_over)


def _open_copy(
    text: str, progress: Progress, is_to_go_on: bool = True, take_over: bool = False
) -> RunFolder:
    """Fetch the run whose copies are at the address `text`; NoCopyError if there are none."""
    try:
        address = absolute_address(text)
    except ValueError as error:
        raise BadInputError(str(error)) from None
    if holds_password(address):
        raise BadInputError(f"'{redact(address)}': give no password; it comes from the environment")
    check_address(address)
    parent, run_id = parent_and_name(address)
    if not RUN_ID.fullmatch(run_id):
        raise BadInputError(f"'{redact(address)}': '{run_id}' is no name of a run")
    check_home()
    try:
        with locked_file(home() / f".fetch-{run_id}.lock", is_kept=False):
            return _fetched(Storage(address), parent, run_id, progress, is_to_go_on, take_over)
    except HeldError as holder:
        raise BadInputError(f"run {run_id} is being fetched by {holder}; wait for it") from None
    except ElsewhereError as error:
        raise BadInputError(f"run {run_id} {error}") from None
    except OuterloopError:
        raise
    except Exception as error:  # all that a file system and its network can raise
        shown = redact(address)
        raise RunFailedError(f"{shown}: {reason_of(error)}; nothing was fetched") from error


def find_run(run_id: str, copy_to: str, progress: Progress) -> RunFolder | None:
    """Return the run `run_id` that is in the home, else fetched from its copies; None if it is new.

    Args:
        run_id: A whole id; BadInputError if it cannot be one.
        copy_to: Where its copies are, if it has any; empty: nowhere.
        progress: As of `open_run`, whose errors are raised too.
    """
    check_run_id(run_id)
    if os.path.lexists(home() / run_id):
        return RunFolder.open(run_id)
    if not copy_to:
        return None
    try:
        return _open_copy(below(copy_to, run_id), progress)
    except NoCopyError:
        return None


def _is_folder_of_copies(text: str) -> bool:
    """Tell whether `text` is a path to copies of a run, and names no run that is here."""
    if text in list_runs() or os.path.isfile(os.path.join(text, CONFIG)):
        return False
    return os.path.isdir(os.path.join(text, COPIES))


def _fetched(
    storage: Storage,
    parent: str,
    run_id: str,
    progress: Progress,
    is_to_go_on: bool,
    take_over: bool,
) -> RunFolder:
    copies = read_manifests(storage)
    if not copies:
        raise NoCopyError(f"{redact(storage.address)}: there is no sound copy of a run")
    if is_to_go_on and not take_over:
        check_owner(storage)
    here = RunFolder(home() / run_id)
    if here.path.exists():
        with here.locked():
            reason = _why_not_older(here, copies[-1])
        if reason and not is_to_go_on:
            return here
        if reason:
            raise BadInputError(reason)
    _remove_leftovers(run_id)
    fetching = Fetching(storage, home() / f".fetching-{run_id}-{os.getpid()}")
    try:
        copy, copies = _newest_sound(fetching, copies)
        _make_ours(fetching, copy, copies, parent)
        _put_in_place(fetching.folder, here, copy, progress)
    finally:
        shutil.rmtree(fetching.folder, ignore_errors=True)
    progress.message(
        f"run {run_id}: fetched the copy of outer step {copy.step} from {redact(storage.address)}"
    )
    return here


def _newest_sound(
    fetching: Fetching, copies: list[CopyManifest]
) -> tuple[CopyManifest, list[CopyManifest]]:
    """Fetch the newest copy that is sound; of a run that is at work, old ones go meanwhile."""
    while True:
        try:
            return fetching.newest_sound(copies), copies
        except RunFailedError:
            later = read_manifests(fetching.storage)
            if not later or later[-1].number <= copies[-1].number:
                raise
            copies = later


def _why_not_older(here: RunFolder, copy: CopyManifest) -> str:
    """Return why the copy is not to take the place of the run, which is locked; empty if it may."""
    step = max(CheckpointStore(here.checkpoints, keep=2).steps(), default=0)
    if is_newer(copy, here.path, step):
        return ""
    return (
        f"run {here.run_id} is in {home()} already, at outer step {step}, and its copy is no "
        f"newer; go on with: outerloop train --resume {here.run_id}, or move its folder away"
    )


def _remove_leftovers(run_id: str) -> None:
    """Remove what processes left that were killed while they fetched the run."""
    for folder in home().glob(f".fetching-{run_id}-[0-9]*"):
        try:
            os.kill(int(folder.name.rpartition("-")[2]), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (OSError, ValueError, OverflowError):
            continue


def _make_ours(
    fetching: Fetching, copy: CopyManifest, copies: list[CopyManifest], parent: str
) -> None:
    """Make the fetched folder one of this machine, that is copied to where it came from."""
    folder = fetching.folder
    for name in ("checkpoints", "trajectories", "evaluation", "plots", "tracking"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "log.txt").touch()
    (folder / "tracking" / FETCHED).write_text("{}")
    drop_foreign_items(folder / "tracking" / "pending")
    if fetching.has_gaps:  # what was counted as sent may lie elsewhere now
        (folder / "tracking" / DELIVERED).unlink(missing_ok=True)
    experiment = load_experiment(folder / CONFIG)
    if experiment.checkpoint.copy_to != parent:
        checkpoint = experiment.checkpoint.model_copy(update={"copy_to": parent})
        experiment = experiment.model_copy(update={"checkpoint": checkpoint})
        write_atomic(folder / CONFIG, to_yaml(experiment).encode())
    writers = frozenset(one.writer for one in copies)
    write_known(folder, Known(copy.number, writers, frozenset(fetching.damaged)))


def _put_in_place(folder: Path, here: RunFolder, copy: CopyManifest, progress: Progress) -> None:
    """Give the fetched folder the run's name; an older one that has it is kept.

    BadInputError if it is not older any more, or at work: fetching took its time.
    """
    with ExitStack() as stack:
        if here.path.exists():
            stack.enter_context(here.locked())
            if reason := _why_not_older(here, copy):
                raise BadInputError(reason)
            aside = home() / f".older-{here.run_id}-{secrets.token_hex(3)}"
            here.path.rename(aside)
            progress.message(f"run {here.run_id} was here, but older; it is kept as {aside}")
        folder.rename(here.path)
    sync_folder(home())
