"""How the work on a run ends: logged, tracked, and with a word on how to go on."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.checkpoint import CheckpointStore
from pipeline.copies import AnyCopies
from pipeline.errors import (
    InterruptedRunError,
    OuterloopError,
    RayLostError,
    RunFailedError,
    TakenOverError,
    TaskFailedError,
)
from pipeline.interrupt import StopRequest
from pipeline.progress import ENDS, Progress
from pipeline.run_log import logged_to
from pipeline.runs import RunFolder
from pipeline.tracking import Status, Tracker

# For the last points to reach MLflow; what does not is sent when the run is resumed.
FINISH_TIMEOUT_S = 30.0
INTERRUPTED_TIMEOUT_S = 10.0
# For the last copy to reach its storage; it is on its way since the checkpoint.
COPY_TIMEOUT_S = 60.0
INTERRUPTED_COPY_TIMEOUT_S = 20.0
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES)

logger = logging.getLogger(__name__)


class RunEnding:
    """Sees to it that log.txt, MLflow and who watches learn how a command's work on a run ends."""

    def __init__(
        self,
        run: RunFolder,
        checkpoints: CheckpointStore,
        tracker: Tracker,
        copies: AnyCopies,
        stop: StopRequest,
        progress: Progress,
    ) -> None:
        self._run = run
        self._checkpoints = checkpoints
        self._tracker = tracker
        self._copies = copies
        self._stop = stop
        self._progress = progress
        self.notes: list[str] = []  # what is left to do, a line each, once it has ended

    @contextmanager
    def of(self, command: str) -> Iterator[None]:
        """Log and track what the block does and how it ends."""
        with logged_to(self._run.log, self._progress), self._tracked(), self._resumable(command):
            yield

    @contextmanager
    def _resumable(self, command: str) -> Iterator[None]:
        """Add to what ends the run how to go on with it, unless that would fail again."""

        def how_to_go_on() -> str:
            steps = self._checkpoints.steps()
            saved = f"checkpoint at outer step {steps[-1]}" if steps else "no checkpoint yet"
            return f"{saved}; go on with: outerloop {command} {self._run.run_id}"

        self._stop.how_to_go_on = lambda: f"in run {self._run.run_id}; {how_to_go_on()}"
        try:
            yield
        except (TaskFailedError, TakenOverError):
            raise
        except RayLostError as error:
            # Who ends a whole group of processes, as `timeout` does, ends Ray too, and sooner.
            if not self._stop.signal_name:
                raise RayLostError(f"{error}; {how_to_go_on()}") from error
            reason = f"interrupted by {self._stop.signal_name}, and so was Ray, before a checkpoint"
            raise InterruptedRunError(f"{reason}; {how_to_go_on()}") from error
        except (InterruptedRunError, RunFailedError) as error:
            raise type(error)(f"{error}; {how_to_go_on()}") from error
        except OSError as error:
            raise RunFailedError(
                f"{_of_the_system(error, self._run.path)}; {how_to_go_on()}"
            ) from error

    @contextmanager
    def _tracked(self) -> Iterator[None]:
        """Log how the block ends, and end tracking with that status."""
        try:
            yield
            self._copies.check()
        except TakenOverError as error:  # curves and status are the other machine's
            logger.info("ended: %s", error, extra=ENDS)
            self._tracker.abandon()
            raise
        except BaseException as error:
            status: Status = "KILLED" if isinstance(error, InterruptedRunError) else "FAILED"
            # What is no error of ours is a mistake in outerloop: where it is helps to mend it.
            mistake = not isinstance(error, OuterloopError)
            self._finish(status, f"ended: {error}", with_traceback=mistake)
            raise
        run_id = self._run.run_id
        self._stop.how_to_go_on = lambda: (
            f"in run {run_id}, which is complete; what MLflow has not got is sent by: "
            f"outerloop sync {run_id}"
        )
        self._finish("FINISHED", f"ended well at outer step {self._checkpoints.steps()[-1]}")

    def _finish(self, status: Status, how: str, with_traceback: bool = False) -> None:
        """Log `how` it ended, send what MLflow has not got, copy what is not copied.

        A new signal ends the wait.
        """
        asked = self._stop.signal_name
        self._stop.what_follows = "MLflow is not waited for any longer"
        logger.info("%s", how, exc_info=with_traceback, extra=ENDS)
        with contextlib.suppress(RunFailedError):  # a full disk has been told of by then
            self._tracker.log_artifact(self._run.log)
        timeout_s = INTERRUPTED_TIMEOUT_S if asked else FINISH_TIMEOUT_S
        left = self._tracker.finish(status, timeout_s, lambda: self._stop.signal_name != asked)
        if left:
            self.notes.append(
                f"{left} points and other items are not in MLflow yet; send them with: outerloop "
                f"sync {self._run.run_id}"
            )
        asked = self._stop.signal_name
        self._stop.what_follows = "the copy is not waited for any longer"
        timeout_s = INTERRUPTED_COPY_TIMEOUT_S if asked else COPY_TIMEOUT_S
        self._copies.finish(timeout_s, lambda: self._stop.signal_name != asked)
        if self._copies.behind:
            self.notes.append(
                "the newest state is not copied yet; copy it with: outerloop evaluate "
                f"{self._run.run_id}"
            )


def _of_the_system(error: OSError, folder: Path) -> str:
    """Return what the system says is wrong; advice, if it is about a file, by default `folder`."""
    reason = error.strerror or (str(error).strip().splitlines() or [type(error).__name__])[-1]
    if error.filename is None and error.errno not in DISK_ERRORS:
        return reason
    return f"{error.filename or folder}: {reason}; make room or mend the folder"
