"""A Ray on this machine for a benchmark: for this machine alone, with as many cores as it says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipeline.connection import on_loopback


@contextmanager
def local_ray(num_cpus: int, object_store_memory: int | None = None) -> Iterator[None]:
    """Have a Ray of `num_cpus` logical cores while the block runs.

    Args:
        num_cpus: More than there are, if only some of its workers are at work at a time.
        object_store_memory: Bytes; by default Ray's share of what there is.
    """
    with on_loopback():
        ray.init(
            address="local",
            num_cpus=num_cpus,
            namespace="outerloop-bench",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=object_store_memory,
        )
    try:
        yield
    finally:
        ray.shutdown()
