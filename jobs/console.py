"""Where a command prints: a reader that has gone ends no command and changes no exit code."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from typing import TYPE_CHECKING, TextIO

from rich.console import Console

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class CommandConsole(Console):
    """Falls silent when nobody reads it any more: the command goes on, and ends as it would."""

    def on_broken_pipe(self) -> None:
        """Drop what is still to be written."""
        self.quiet = True
        drop_output(2 if self.stderr else 1)


class Output(io.FileIO):
    """Standard output or standard error: what it does not take is told of once, and dropped."""

    def write(self, data: ReadableBuffer) -> int:
        """Write; OSError with the stream's name, but for standard error: nobody could be told."""
        try:
            return super().write(data)
        except BrokenPipeError:  # see CommandConsole
            raise
        except OSError as error:
            if error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode):
                raise BrokenPipeError from error  # its terminal was closed
            drop_output(self.fileno())
            if self.fileno() == 2:
                return memoryview(data).nbytes
            error.filename = "standard output"
            raise


def take_standard_streams() -> None:
    """Have both streams tell of errors as `Output` does; one that is closed takes all, silently."""
    for name in ("stdin", "stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # takes the free number, too, which no file of a run shall have
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115  # as long as the process
        elif name != "stdin":
            raw = Output(stream.fileno(), "w", closefd=False)
            taken = io.TextIOWrapper(
                io.BufferedWriter(raw), stream.encoding, stream.errors,
                line_buffering=bool(stream.line_buffering),
            )  # fmt: skip
            setattr(sys, name, taken)


def say(text: str, stream: TextIO) -> None:
    """Print the line at once, if anybody reads it."""
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        drop_output(stream.fileno())


def drop_output(descriptor: int) -> None:
    """Have all that is still written there vanish, the interpreter's last flush included."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
