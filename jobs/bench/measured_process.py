"""A loop in a process of its own that runs when told, so that several can be timed together."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

Take = Callable[[int], object]  # takes that many inner steps


class MeasuredProcess:
    """Runs `build(*arguments)()` in a fresh process with `threads` torch threads.

    What `build` returns takes a number of inner steps and takes them. Between measurements the
    process sleeps. A context manager: leaving it ends the process.
    """

    def __init__(self, threads: int, build: Callable[..., Take], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, threads, build, arguments), name=build.__name__
        )
        self._process.start()
        theirs.close()  # so that a process that dies is an EOFError here, not a wait for ever

    def start(self, num_steps: int) -> None:
        """Begin to take `num_steps` inner steps."""
        self._connection.send(num_steps)

    def seconds(self) -> float:
        """Wait for what `start` began; return how long it took.

        Raises RuntimeError if the process failed; its traceback is on stderr.
        """
        try:
            return float(self._connection.recv())
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"the process of {self._process.name} failed: exit code {self._process.exitcode}"
            ) from None

    def __enter__(self) -> MeasuredProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()  # the process reads the end of its input and returns
        self._process.join()


def steps_per_second(processes: Sequence[MeasuredProcess], num_steps: int) -> float:
    """Return the summed rate of `processes`, which take `num_steps` each at the same time.

    The slowest sets the time: steps that others took while it was alone gain nothing.
    """
    for process in processes:
        process.start(num_steps)
    return len(processes) * num_steps / max([process.seconds() for process in processes])


def _serve(
    connection: Connection, threads: int, build: Callable[..., Take], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(threads)
    take = build(*arguments)
    while True:
        try:
            num_steps = connection.recv()
        except EOFError:
            return
        start = time.perf_counter()
        take(num_steps)
        connection.send(time.perf_counter() - start)
