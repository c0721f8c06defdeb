"""The ways a command can end other than well, each with its exit code."""

from __future__ import annotations


class OuterloopError(Exception):
    """Ends the command with one line and `exit_code`; never shown as a traceback."""

    exit_code = 1


class RunFailedError(OuterloopError):
    """The run could not go on (exit code 1)."""


class TaskFailedError(RunFailedError):
    """The tasks themselves fail: going on with the run would only fail again (exit code 1)."""


class TakenOverError(RunFailedError):
    """Another machine goes on with the run: nothing more is put on its record here (exit code 1).

    To go on here would put points into its curves twice.
    """


class RayLostError(RunFailedError):
    """Ray has died on this machine, and parameters in memory with it (exit code 1)."""


class EnvironmentFailedError(RunFailedError):
    """An environment raised, or took too long, while it was reset or stepped (exit code 1).

    The message names the environment and the cause. It is the failure of one task, which can be
    tried again or dropped; TaskFailedError is for when there is no use in that.
    """


class AggregatorLostError(Exception):
    """A part of the aggregator was lost while an outer step was taken.

    It stands again, all of it at the outer step before; what it held of this one is to be computed
    again.
    """


class AggregatorGoneError(RunFailedError):
    """A part of the aggregator was lost too often (exit code 1)."""


class UnconfirmedError(Exception):
    """The storage does not say whether the run is still this machine's; the message says why."""


class BadInputError(OuterloopError, ValueError):
    """What the user gave cannot be used (exit code 2).

    The message names the file, key or value, what was expected and how to mend it. It is a
    ValueError, so whatever catches those lets this one through first.
    """

    exit_code = 2


class InterruptedRunError(OuterloopError):
    """SIGINT, SIGTERM or SIGHUP ended the run after a checkpoint (exit code 130)."""

    exit_code = 130
