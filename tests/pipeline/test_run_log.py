"""log.txt: a run goes on without it, and mistakes in what is logged are not hidden by it."""

import logging
import os
from pathlib import Path

from pipeline.progress import ENDS, SHOWN, SilentProgress
from pipeline.run_log import LoggedProgress, logged_to

logger = logging.getLogger("pipeline.test")


class Heard(SilentProgress):
    def __init__(self):
        self.texts = []

    def message(self, text):
        self.texts.append(text)


def test_a_log_that_cannot_be_opened_is_told_of_and_no_end(tmp_path):
    progress = Heard()
    with logged_to(tmp_path, progress):
        logger.warning("this is heard")
    assert progress.texts == [
        f"{tmp_path}: Is a directory; the run goes on without this log",
        "this is heard",
    ]


def test_a_pipe_in_place_of_the_log_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "log.txt")
    progress = Heard()
    with logged_to(tmp_path / "log.txt", progress):
        LoggedProgress(progress, tmp_path / "log.txt").last_words("ended", 130)
    assert progress.texts == [f"{tmp_path}/log.txt: is no file; the run goes on without this log"]


def test_warnings_and_what_is_marked_are_heard_and_all_is_written(tmp_path):
    progress = Heard()
    with logged_to(tmp_path / "log.txt", progress):
        logger.info("quiet")
        logger.info("marked", extra=SHOWN)
        logger.warning("warning")
    assert progress.texts == ["marked", "warning"]
    log = (tmp_path / "log.txt").read_text()
    for line in ("INFO quiet", "INFO marked", "WARNING warning"):
        assert line in log


def test_what_was_just_said_or_ends_the_command_is_not_said_again(tmp_path):
    progress = Heard()
    with logged_to(tmp_path / "log.txt", progress):
        logger.warning("the disk is full")
        logger.warning("the disk is full")
        logger.warning("MLflow is away")
        logger.warning("the disk is full")
        logger.info("ended: no space; go on with: train", extra=ENDS)
        logger.warning("no space")
    assert progress.texts == ["the disk is full", "MLflow is away", "the disk is full"]
    assert (tmp_path / "log.txt").read_text().count("no space") == 2


def test_a_full_disk_is_not_told_of_by_the_log(capsys):
    with logged_to(Path("/dev/full"), SilentProgress()):
        logger.info("lost")
    assert capsys.readouterr().err == ""


def test_a_mistake_in_what_is_logged_is_told_of(tmp_path, capsys):
    record = logger.makeRecord("pipeline", logging.INFO, "", 0, "%d steps", ("no number",), None)
    with logged_to(tmp_path / "log.txt", SilentProgress()):
        for handler in logger.parent.handlers:  # not pytest's own, which raises
            handler.handle(record)
    assert "TypeError" in capsys.readouterr().err
