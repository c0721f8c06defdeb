"""This process's connection to Ray: starting or joining it, what it has, whether it lives."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import ray
import ray._private.ray_constants as ray_constants
import ray._private.utils as ray_utils
import ray._private.worker as ray_driver
from ray.exceptions import AuthenticationError, RayTaskError

from pipeline.caches import replace_unwritable_ray_token
from pipeline.config import Experiment
from pipeline.errors import BadInputError, RayLostError, RunFailedError
from pipeline.orphans import end_orphans
from pipeline.resources import check_resources

REACH_TIMEOUT_S = 5.0
LIST_NODES_EVERY_S = 5.0
# Private to Ray: without it, Ray's daemons speak on stdout among our own lines.
RAY_PRINTS: Any = getattr(ray_driver, "print_to_stdstream", None)
RAY_TAKES = "set_sigterm_handler"  # private too
TOKEN_ADVICE = (
    "if the cluster uses tokens, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's token "
    "(RAY_AUTH_MODE=disabled if it uses none)"
)
WITHOUT_RAY = "workers.count=0 runs without it"

logger = logging.getLogger(__name__)


def connect(experiment: Experiment) -> bool:
    """Join the cluster of `workers.address`, or start Ray here; True if it was started here.

    Raises BadInputError when more workers or GPUs are asked for than there are, or no cluster is
    at the address; RunFailedError when Ray cannot start here.
    """
    if ray.is_initialized():
        check_resources(experiment)
        return False
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Else Ray prints the trace of each error that nobody asks for, as when two shards fail at once.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    address = experiment.workers.address
    if address:
        _check_reachable(address)
    _log_messages(True)
    try:
        if not address:
            end_orphans()
            replace_unwritable_ray_token()
        with _signals_kept(), nullcontext() if address else on_loopback():
            ray.init(
                address=address or "local",
                namespace="outerloop",
                # False leaves out its pages: the process and an agent run without, on loopback too.
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (OSError, ValueError, RuntimeError, AuthenticationError) as error:
        _log_messages(False)
        reason = first_line(error)
        if not address:
            raise RunFailedError(f"Ray could not start: {reason}; {WITHOUT_RAY}") from None
        raise BadInputError(f"workers.address: '{address}': {reason}; {TOKEN_ADVICE}") from None
    try:
        check_resources(experiment)
    except BadInputError:
        disconnect(True)
        raise
    return not address


def disconnect(owns_ray: bool) -> None:
    """End Ray if it was started here, and have it print its messages by itself again."""
    if owns_ray:
        ray.shutdown()
    _log_messages(False)


@contextmanager
def on_loopback() -> Iterator[None]:
    """Have a Ray that is started in the block listen for this machine alone, all its processes.

    Ray does so by itself on macOS and Windows, and has no setting for it elsewhere.
    """
    default = getattr(ray_constants, "ENABLE_RAY_CLUSTER", None)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = default


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Leave SIGTERM to whom it belongs now, while Ray starts and after, and SIGHUP to us alone.

    Ray puts handlers of its own for SIGTERM, in C++ and then in Python, which end the process with
    a trace of addresses. Where its private function has another name, they stand until the block
    ends. Its processes are born with SIGHUP blocked, as Ray itself does it with SIGINT: a terminal
    that is closed tells them too, and without them there is no last checkpoint.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler, theirs = signal.getsignal(signal.SIGTERM), getattr(ray_utils, RAY_TAKES, None)

    def take_back(unwanted: object = None) -> None:
        signal.signal(signal.SIGTERM, handler)

    if theirs is not None:
        setattr(ray_utils, RAY_TAKES, take_back)
    blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)
        if theirs is not None:
            setattr(ray_utils, RAY_TAKES, theirs)
        take_back()


def _log_messages(wanted: bool) -> None:
    """Have what Ray's daemons say logged, or printed by the function that Ray has for it."""
    if RAY_PRINTS is not None:
        ray_driver.print_to_stdstream = _log_message if wanted else RAY_PRINTS


def _check_reachable(address: str) -> None:
    """Raise BadInputError if nothing answers at host:port: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise BadInputError(
            f"workers.address: '{address}': no Ray cluster answers there: {error}"
        ) from None


class NodeWatch:
    """Looks after Ray on this machine: without it no worker would ever start again."""

    def __init__(self) -> None:
        self._next_list = 0.0  # of nodes; monotonic time

    def check(self, idle: bool = False) -> None:
        """Raise RayLostError if Ray is dead on this machine."""
        lost = self.lost(idle)
        if lost:
            raise RayLostError(f"Ray on this machine is lost: {lost}")

    def lost(self, idle: bool = False) -> str:
        """Return what of Ray has died on this machine; empty while all is well.

        An `idle` look, one of many, asks for the list of all the cluster's nodes but seldom.
        """
        # Ray's own record of its processes is private: another version may have none.
        here: Any = getattr(ray_driver, "_global_node", None)
        dead: list[tuple[str, Any]] = getattr(here, "dead_processes", list)()
        if dead:
            return f"its process {dead[0][0]} has died"
        now = time.monotonic()
        if idle and now < self._next_list:
            return ""
        self._next_list = now + LIST_NODES_EVERY_S
        own = ray.get_runtime_context().get_node_id()
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        if any(node["NodeID"] == own and not node["Alive"] for node in nodes):
            return "the cluster counts this node as dead"
        return ""


def cause_of(error: RayTaskError) -> BaseException:
    """Return what was raised in an actor, as far as Ray could bring it here."""
    return error.cause if error.cause is not None else error


def first_line(error: BaseException) -> str:
    """Return the beginning of what Ray says of an error, which may be a page in colours."""
    return _plain_line(str(error)) or type(error).__name__


def _log_message(data: dict[str, Any], ignore_prefix: bool) -> None:
    """Take the place of the function by which Ray prints its daemons' messages on stdout."""
    for text in data["lines"]:
        logger.info("ray: %s", _plain_line(text))


def _plain_line(text: str) -> str:
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines() or [""]
    return lines[0][:300].rstrip(".")
