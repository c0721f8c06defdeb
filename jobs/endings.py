"""How a command that ends other than well is told of: one line and an exit code."""

from __future__ import annotations

import signal
import traceback

import typer

from pipeline.errors import OuterloopError

EXIT_CODES = (0, 1, 2, 130)
SIGTERM_CODES = (signal.SIGTERM, 128 + signal.SIGTERM)


def line_and_code(error: Exception) -> tuple[str, int]:
    """Return the one line that the user reads and the exit code."""
    if isinstance(error, OuterloopError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # a usage error; its class is private to typer
        return f"{error.format_message()} (see `outerloop --help`)", 2
    if isinstance(error, typer.Abort):
        return "interrupted", 130
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}", 1
    traceback.print_exception(error)  # a mistake in outerloop itself
    return f"{type(error).__name__}: {error}", 1


def line_and_code_of_exit(error: SystemExit) -> tuple[str, int]:
    """Return line and exit code for a SystemExit, which none of our own code raises.

    Ray does, from handlers of SIGTERM that are in place while it starts: with the signal's number
    at first, and with 1 once its processes stand.
    """
    frames = traceback.extract_tb(error.__traceback__)
    by_handler = bool(frames) and frames[-1].name == "sigterm_handler"
    if error.code in SIGTERM_CODES or by_handler or "SIGTERM" in str(error.code):
        return "interrupted by SIGTERM before the run began", 130
    code = 0 if error.code is None else error.code
    if isinstance(code, int):
        return f"ended with exit code {code}", code if code in EXIT_CODES else 1
    return str(code), 1
