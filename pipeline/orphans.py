"""Actors that outlived the Ray which started them: they are recognised, and ended.

An actor ends by itself when its raylet dies, unless it is stopped or hangs. Then it keeps its
memory, and its share of a GPU, from the run that is resumed in its place.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import psutil

TITLES = ("ray::TaskServer", "ray::AggregatorServer")  # Ray's names for processes of our actors

logger = logging.getLogger(__name__)


def end_orphans() -> int:
    """End this user's actors on this machine whose raylet is dead; return how many there were."""
    orphans = list(_orphans())
    for orphan in orphans:
        with contextlib.suppress(psutil.Error):
            orphan.kill()
    if orphans:
        pids = ", ".join(str(orphan.pid) for orphan in orphans)
        logger.warning("ended what a dead run left behind: process %s", pids)
    return len(orphans)


def _orphans() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if not " ".join(process.cmdline()).startswith(TITLES):
                continue
            has_raylet = any(parent.name() == "raylet" for parent in process.parents())
            if process.uids().real == os.getuid() and not has_raylet:
                yield process
