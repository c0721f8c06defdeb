"""Copies of a run in storage that outlasts this machine, made while it trains.

After each checkpoint, and now and then while long tasks run, the state of the run is held on to
(`pipeline.copy_stage`), and a thread brings it to the storage (`pipeline.copy_upload`). Of states
that wait, the newest is all that is kept. Storage that is slow or away never stops training: the
thread tries again, ever less often, and the next state has what the last one had.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.config import Experiment
from pipeline.copy_claim import Claim
from pipeline.copy_lineage import ElsewhereError, read_known
from pipeline.copy_owner import BEAT_EVERY_S, Owner
from pipeline.copy_sink import NoCopies
from pipeline.copy_stage import Staged, remove_stages, stage
from pipeline.copy_upload import Uploader
from pipeline.delivery import back_off_s
from pipeline.errors import BadInputError, OuterloopError, TakenOverError, UnconfirmedError
from pipeline.progress import SHOWN
from pipeline.redaction import redact
from pipeline.runs import RunFolder, home
from pipeline.storage import Storage, below, check_address, local_path, reason_of

IN_FLIGHT_EVERY_S = 60.0  # at most that often, tasks under way are copied between checkpoints
BEGIN_TIMEOUT_S = 10.0  # for the storage to say whether the run went on elsewhere
CLOSE_TIMEOUT_S = 2.0
LAST_AGAIN_AFTER_S = 1.0  # after a failure, once the run has ended
LOOK_EVERY_S = 0.1

logger = logging.getLogger(__name__)


class Copies:
    """Copies of the run in `run` at `address`; call from the one thread that trains.

    What goes wrong here is told in warnings and stops nothing, but for one thing: a run that
    another machine has taken over raises TakenOverError in its next outer step.
    """

    def __init__(self, run: RunFolder, address: str, keep: int, outer_steps: int) -> None:
        self._run = run
        self._address = address
        self._keep = keep
        self._owner = Owner.here(secrets.token_hex(8))
        self._begun_at = self._outer_steps = outer_steps
        self._changed = threading.Condition()
        self._waiting: tuple[int, Staged] | None = None  # with how many checkpoints it has
        self._offered = self._copied = 0  # checkpoints
        self._number = 0
        self._next_tasks = time.monotonic() + IN_FLIGHT_EVERY_S
        self._finishing = False
        self._is_over = False  # it is not waited for any longer, or nothing can be copied
        self._begun = threading.Event()  # or failed to, for the first time
        self._elsewhere = ""
        self._claim: Claim | None = None
        self.came_from = ""  # as of Uploader; known once `begin` has had an answer in time
        self._was_copied = bool(read_known(run.path).writers)
        self._refusal: OuterloopError | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def begin(self, take_over: bool) -> None:
        """Begin to copy.

        BadInputError if the address is of no use, or the run is at work elsewhere or went on
        there. Storage that does not answer in time is waited for no longer.
        """
        self._take_over = take_over
        self._thread.start()
        self._begun.wait(BEGIN_TIMEOUT_S)
        if self._refusal is not None:
            raise self._refusal

    @property
    def behind(self) -> int:
        """How many checkpoints are not copied yet."""
        return self._offered - self._copied

    def check(self) -> None:
        """Raise TakenOverError if another machine is known to have taken the run over."""
        if self._elsewhere:
            raise TakenOverError(f"run {self._run.run_id} {self._elsewhere}, and goes on there")

    def confirm(self) -> None:
        """Return if the run is still this machine's. Asks the storage: for the thread that sends.

        Raises:
            TakenOverError: Another machine has taken it over.
            UnconfirmedError: The storage has not answered for so long that one may have.
        """
        self.check()
        where = f"storage at {redact(self._address)}"
        held = "the run may have gone on elsewhere, so MLflow gets nothing until it answers"
        if self._claim is None:
            if self._was_copied:
                raise UnconfirmedError(f"{where} has not answered yet; {held}")
            return
        try:
            self._claim.confirm()
        except ElsewhereError as error:
            self._elsewhere = str(error)
            self.check()
        except UnconfirmedError as error:
            raise UnconfirmedError(f"{where} {error}; {held}") from None

    def offer(self, outer_steps: int) -> None:
        """Copy the run as it is now; TakenOverError if another machine has taken it over."""
        self.check()
        self._outer_steps = outer_steps
        self._offered += 1
        self._stage()

    def offer_tasks(self, outer_steps: int) -> None:
        """Copy the run as it is now, unless that was done lately."""
        if time.monotonic() >= self._next_tasks and not self._elsewhere:
            self._outer_steps = outer_steps
            self._stage()

    def finish(self, timeout_s: float, is_hurried: Callable[[], bool]) -> None:
        """Copy the run as it is in the end, within `timeout_s`; a warning says if that failed."""
        if not self._elsewhere:
            self._offered += 1
            self._stage()
        with self._changed:
            self._finishing = True
            self._changed.notify()
        limit = time.monotonic() + timeout_s
        while self._thread.is_alive() and time.monotonic() < limit and not is_hurried():
            self._thread.join(LOOK_EVERY_S)
        self._end()
        if self.behind and not self._elsewhere:
            logger.warning(
                "the newest state of run %s is not at %s yet; it is copied when the run is resumed "
                "or evaluated here", self._run.run_id, redact(self._address),
            )  # fmt: skip

    def close(self) -> None:
        """End the work if `finish` was never reached: the run was never begun."""
        if self._finishing:
            return
        with self._changed:
            self._finishing = True
            self._changed.notify()
        self._thread.join(CLOSE_TIMEOUT_S)
        self._end()

    def _end(self) -> None:
        """Copy nothing that is not on its way, and let go of what is held on to for that."""
        with self._changed:
            self._is_over = True
            waiting, self._waiting = self._waiting, None
            self._changed.notify()
        if waiting is not None:
            waiting[1].discard()

    def _stage(self) -> None:
        if self._is_over:
            return
        self._number += 1
        self._next_tasks = time.monotonic() + IN_FLIGHT_EVERY_S
        try:
            staged = stage(self._run.path, self._number, self._outer_steps)
        except OSError as error:
            logger.warning("this state of the run is not copied: %s", reason_of(error))
            return
        with self._changed:
            unwanted = staged if self._is_over else self._waiting and self._waiting[1]
            if not self._is_over:
                self._waiting = (self._offered, staged)
            self._changed.notify()
        if unwanted is not None:
            unwanted.discard()

    def _work(self) -> None:
        """Copy what waits, again and again, until all is done."""
        failures = 0
        uploader: Uploader | None = None
        while True:
            last = self._wait(failures)
            try:
                uploader = uploader or self._begin()
                copied = self._copy_waiting(uploader)
                uploader.claim.end() if last else uploader.claim.beat()
                self._recovered(failures, copied)
                failures = 0
            except (ElsewhereError, BadInputError) as error:
                self._give_up(error, is_first=uploader is None and not self._begun.is_set())
                return
            except BaseException as error:  # all that a file system and its network can raise
                self._report(error, failures)
                failures += 1
            finally:
                self._begun.set()
            with self._changed:
                if self._is_over or (last and self._waiting is None and not failures):
                    return

    def _wait(self, failures: int) -> bool:
        """Wait until there is something to do; return whether that is the last of it."""
        with self._changed:
            if failures and self._finishing:
                self._changed.wait_for(lambda: self._is_over, LAST_AGAIN_AFTER_S)
            elif failures:
                self._changed.wait_for(lambda: self._finishing, back_off_s(failures))
            elif self._begun.is_set():
                self._changed.wait_for(lambda: self._finishing or self._waiting, BEAT_EVERY_S)
            return self._finishing

    def _begin(self) -> Uploader:
        storage = Storage(below(self._address, self._run.run_id))
        uploader = Uploader(storage, self._run.path, self._keep, self._owner)
        uploader.begin(self._begun_at, self._take_over)
        self._claim, self.came_from = uploader.claim, uploader.came_from
        return uploader

    def _copy_waiting(self, uploader: Uploader) -> int | None:
        """Copy the state that waits; return how many outer steps it has, None if none waits."""
        with self._changed:
            taken, self._waiting = self._waiting, None
        if taken is None:
            return None
        outer_steps = taken[1].marks.outer_steps
        try:
            uploader.publish(taken[1])
        except BaseException:
            with self._changed:  # for the next attempt, unless there is a newer one
                if self._waiting is None and not self._is_over:
                    taken, self._waiting = None, taken
            raise
        finally:
            if taken is not None:
                taken[1].discard()
        self._copied = max(self._copied, taken[0])
        return outer_steps

    def _give_up(self, error: Exception, is_first: bool) -> None:
        if isinstance(error, ElsewhereError):
            self._elsewhere = str(error)
            error = BadInputError(f"run {self._run.run_id} {error}")
        if is_first:
            self._refusal = error if isinstance(error, OuterloopError) else None
        else:
            logger.warning("nothing is copied any longer: %s", error)
        self._end()
        self._begun.set()

    def _report(self, error: BaseException, failures: int) -> None:
        with contextlib.suppress(BaseException):  # what shows the log may be broken itself
            if not failures:
                logger.warning(
                    "storage at %s: %s; training goes on, and the run is copied later",
                    redact(self._address), reason_of(error),
                )  # fmt: skip

    def _recovered(self, failures: int, copied: int | None) -> None:
        with contextlib.suppress(BaseException):
            if failures:
                until = "" if copied is None else f", up to outer step {copied}"
                text = "storage at %s answers: the run is copied again%s"
                logger.info(text, redact(self._address), until, extra=SHOWN)


AnyCopies = Copies | NoCopies


def check_copy_to(address: str) -> None:
    """Raise BadInputError if no run here can be copied to `address`. Asks no server."""
    check_address(address)
    path = local_path(address) if address else None
    if path is not None and path.resolve().is_relative_to(home().resolve()):
        raise BadInputError(
            f"checkpoint.copy_to={address}: is where the runs themselves are ({home()}); name "
            "storage that outlasts them"
        )


@contextmanager
def copying(
    run: RunFolder, experiment: Experiment, outer_steps: int, take_over: bool = False
) -> Iterator[AnyCopies]:
    """Give what copies the run, if its configuration asks for that.

    BadInputError as of `Copies.begin`.
    """
    address = experiment.checkpoint.copy_to
    remove_stages(run.path)
    if not address:
        yield NoCopies()
        return
    check_copy_to(address)
    copies = Copies(run, address, experiment.checkpoint.keep, outer_steps)
    copies.begin(take_over)
    try:
        yield copies
    finally:
        copies.close()
