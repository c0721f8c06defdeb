"""This process's connection to Ray: starting or joining it, what it has, whether it lives."""

from __future__ import annotations

import logging
import os
import re
import socket
from typing import Any

import ray
import ray._private.worker as ray_driver
from ray.exceptions import AuthenticationError

from pipeline.config import Experiment
from pipeline.errors import BadInputError

REACH_TIMEOUT_S = 5.0
TOKEN_ADVICE = (
    "if the cluster uses tokens, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's token "
    "(RAY_AUTH_MODE=disabled if it uses none)"
)

logger = logging.getLogger(__name__)


def connect(experiment: Experiment) -> bool:
    """Join the cluster of `workers.address`, or start Ray here; True if it was started here.

    Raises BadInputError when more workers or GPUs are asked for than there are.
    """
    if ray.is_initialized():
        _check_resources(experiment)
        return False
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray_driver.print_to_stdstream = _log_what_ray_says
    address = experiment.workers.address
    _check_reachable(address)
    try:
        ray.init(
            address=address or "local",
            namespace="outerloop",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError, AuthenticationError) as error:
        advice = f"; {TOKEN_ADVICE}" if address else ""
        raise BadInputError(f"workers.address: '{address}': {first_line(error)}{advice}") from None
    try:
        _check_resources(experiment)
    except BadInputError:
        ray.shutdown()
        raise
    return not address


def _check_reachable(address: str) -> None:
    """Raise BadInputError if nothing answers at host:port: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # auto, or empty
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise BadInputError(
            f"workers.address: '{address}': no Ray cluster answers there: {error}"
        ) from None


def _check_resources(experiment: Experiment) -> None:
    workers = experiment.workers
    cores, gpus = _total("CPU"), _total("GPU")
    if workers.count * workers.threads > cores:
        raise BadInputError(
            f"workers.count: {workers.count} workers of {workers.threads} thread(s) need "
            f"{workers.count * workers.threads} CPU cores; there are {cores:.0f}"
        )
    wanted = max(gpu_share(experiment) * workers.count, float(workers.device.startswith("cuda")))
    if wanted > gpus + 1e-9:
        raise BadInputError(
            f"workers.gpus_per_worker: {workers.count} workers need {wanted:g} GPUs; "
            f"there are {gpus:g}"
        )


def gpu_share(experiment: Experiment) -> float:
    """GPUs of one worker: as configured, else an even share of those there are."""
    workers = experiment.workers
    if workers.gpus_per_worker or workers.device == "cpu":
        return workers.gpus_per_worker
    share = _total("GPU") / workers.count
    return float(int(share)) if share >= 1 else share


def _total(resource: str) -> float:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get(resource, 0.0)


def lost_node() -> str:
    """Return what of Ray has died on this machine; empty while all is well."""
    here: Any = ray_driver._global_node
    dead: list[str] = [] if here is None else [name for name, _ in here.dead_processes()]
    if dead:
        return f"its process {dead[0]} has died"
    own = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    if any(node["NodeID"] == own and not node["Alive"] for node in nodes):
        return "the cluster counts this node as dead"
    return ""


def first_line(error: BaseException) -> str:
    """Return the beginning of what Ray says of an error, which may be a page in colours."""
    return _plain_line(str(error)) or type(error).__name__


def _log_what_ray_says(data: dict[str, Any], ignore_prefix: bool) -> None:
    """Take the place of the function by which Ray prints its daemons' messages on stdout."""
    for text in data["lines"]:
        logger.info("ray: %s", _plain_line(text))


def _plain_line(text: str) -> str:
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines() or [""]
    return lines[0][:300].rstrip(".")
