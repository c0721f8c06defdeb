"""Where a command prints: a reader that has gone ends no command and changes no exit code."""

from __future__ import annotations

import os
from typing import TextIO

from rich.console import Console


class CommandConsole(Console):
    """Falls silent when nobody reads it any more: the command goes on, and ends as it would."""

    def on_broken_pipe(self) -> None:
        """Drop what is still to be written."""
        self.quiet = True
        drop_output(2 if self.stderr else 1)


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
