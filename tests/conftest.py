"""Fixtures shared by all tests: one local Ray for the whole run, folders of their own."""

from __future__ import annotations

import logging
import os
import warnings

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@pytest.fixture(scope="session")
def local_ray():
    """A real Ray on this machine, started once; backends join it instead of starting one.

    Four logical cores, so that tests of two workers do not wait for a dead one's core.
    """
    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own start-up
        ray.init(
            address="local",
            num_cpus=4,
            namespace="outerloop-tests",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    yield ray
    ray.shutdown()
