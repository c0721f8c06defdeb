"""A run's log.txt: what was run, on what, how it went on, and how it ended, with time stamps."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import platform
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from pipeline.evaluation import Evaluation
from pipeline.progress import BatchProgress, OuterProgress, Progress, batch_lines, line_of
from pipeline.redaction import redact

LINE_EVERY_S = 30.0
TASKS_EVERY_S = 300.0
PACKAGES = ("outerloop", "torch", "ray", "mlflow")
FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(message)s")

logger = logging.getLogger(__name__)


@contextmanager
def logged_to(path: Path, progress: Progress) -> Iterator[None]:
    """Send what the pipeline logs to `path`, and warnings to the one who watches too."""
    handlers: list[logging.Handler] = [_ProgressHandler(progress)]
    try:
        if path.is_fifo():  # whoever reads it would be waited for
            raise OSError(errno.EINVAL, "is no file")
        handlers.append(_LogFile(path))
    except OSError as error:
        progress.message(f"{path}: {error.strerror}; the run goes on without this log")
    root = logging.getLogger("pipeline")
    level = root.level
    root.setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    try:
        _log_surroundings()
        yield
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def log_evaluation(evaluation: Evaluation) -> None:
    """Log a line of the meta-test's table for each method."""
    for method, metrics in evaluation.summary().items():
        texts = (f"{name} {row['mean']:.4g} ± {row['ci95']:.2g}" for name, row in metrics.items())
        logger.info("meta-test of %s: %s", method, ", ".join(texts))


class LoggedProgress:
    """Tells `progress` everything, and logs what a reader of the log wants of it."""

    def __init__(
        self,
        progress: Progress,
        log: Path,
        every_s: float = LINE_EVERY_S,
        tasks_every_s: float = TASKS_EVERY_S,
    ) -> None:
        self._progress = progress
        self._log = log
        self._every_s = every_s
        self._tasks_every_s = tasks_every_s
        self._next_line = self._next_tasks = 0.0

    def outer_step(self, progress: OuterProgress) -> None:
        """Log the first step, the last one, and now and then one between."""
        now = time.monotonic()
        if now >= self._next_line or progress.is_last:
            self._next_line = now + self._every_s
            logger.info("%s", line_of(progress))
        self._progress.outer_step(progress)

    def tasks(self, batch: BatchProgress) -> None:
        """Log every task under way, once in a long while."""
        now = time.monotonic()
        if batch.tasks and now >= self._next_tasks:
            self._next_tasks = now + self._tasks_every_s
            for line in batch_lines(batch, now):
                logger.info("%s", line)
        self._progress.tasks(batch)

    def phase(self, name: str, total: int) -> None:
        """Log its beginning."""
        logger.info("%s: %d parts", name, total)
        self._progress.phase(name, total)

    def advance(self, amount: int = 1) -> None:
        """Pass on."""
        self._progress.advance(amount)

    def message(self, text: str) -> None:
        """Log it."""
        logger.info("%s", text)
        self._progress.message(text)

    def at_once(self, text: str) -> None:
        """Pass on."""
        self._progress.at_once(text)

    def last_words(self, line: str, exit_code: int) -> None:
        """Log it, past every buffer and lock."""
        record = logger.makeRecord(__name__, logging.INFO, "", 0, "ended: %s", (line,), None)
        with contextlib.suppress(OSError):
            file = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
            os.write(file, f"{FORMAT.format(record)}\n".encode())
        self._progress.last_words(line, exit_code)


def _log_surroundings() -> None:
    logger.info("command: %s", shlex.join(map(redact, [Path(sys.argv[0]).name, *sys.argv[1:]])))
    versions = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    logger.info("versions: %s", ", ".join(versions))
    cores = os.cpu_count()
    logger.info("host: %s, %s, %s cores", socket.gethostname(), platform.platform(), cores)


class _LogFile(logging.FileHandler):
    """log.txt, without which a run goes on: a full disk is told of by what cannot do without."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.setFormatter(FORMAT)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing of the disk; what is wrong with the record is a mistake of its caller."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file, whatever still waits to be written."""
        with contextlib.suppress(OSError):
            super().close()


class _ProgressHandler(logging.Handler):
    """Shows warnings to whoever watches, and what is marked with SHOWN."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._told = ""  # last, by this handler or by the line with which the command ends

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is to be shown: one that says what was just said is not."""
        if getattr(record, "ends", False):
            self._told = record.getMessage()
        shown = record.levelno >= logging.WARNING or getattr(record, "shown", False)
        return shown and record.getMessage() not in self._told

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the message on."""
        self._told = record.getMessage()
        self._progress.message(self._told)
