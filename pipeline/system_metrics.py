"""How busy the driver's machine is, under the keys of MLflow's own system metrics.

MLflow shows them on a page of their own. They go through the run's log as all points do, so that
they outlast a server that is away; MLflow's own sampler sends them itself, or loses them. Their
step is in seconds since the run was begun. GPUs are looked at where the package nvidia-ml-py is
installed. Of a cluster's other machines Ray tells (infra/README.md).
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

MEGA = 1e6
NOT_TOLD = (OSError, psutil.Error, NotImplementedError)  # what a machine keeps to itself


class SystemMetrics:
    """Logs a point of each figure, at most once in `every_s` seconds; 0: never.

    Args:
        log: Takes a step and its values, such as `Tracker.log_metrics`.
        every_s: The first points come when this time is over.
        begun: When the run was begun, seconds since the epoch.
        folder: Of the run, whose disk is looked at.
    """

    def __init__(
        self,
        log: Callable[[int, Mapping[str, float]], None],
        every_s: float,
        begun: float,
        folder: Path,
    ) -> None:
        self._log = log
        self._every_s = every_s
        self._begun = begun
        self._folder = folder
        self._next = time.monotonic() + every_s
        self._network: Any = None
        self._gpus: Callable[[], dict[str, float]] | None = None
        if every_s:
            self._gpus = _gpus()
            with contextlib.suppress(*NOT_TOLD):
                self._network = psutil.net_io_counters()
                psutil.cpu_percent()  # the next one is of the time from here on

    def take(self, now: float) -> None:
        """Log how things stand, if it is time; `now` is monotonic time in seconds."""
        if not self._every_s or now < self._next:
            return
        self._next = now + self._every_s
        found: dict[str, float] = self._gpus() if self._gpus else {}
        with contextlib.suppress(*NOT_TOLD):
            found |= self._machine()
        step = max(0, int(time.time() - self._begun))
        self._log(step, {f"system/{name}": value for name, value in found.items()})

    def _machine(self) -> dict[str, float]:
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self._folder))
        figures = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGA,
            "system_memory_usage_percentage": memory.used / memory.total * 100,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / MEGA,
            "disk_available_megabytes": disk.free / MEGA,
        }
        network = psutil.net_io_counters()
        if network is not None and self._network is not None:
            received = network.bytes_recv - self._network.bytes_recv
            sent = network.bytes_sent - self._network.bytes_sent
            figures["network_receive_megabytes"] = received / MEGA
            figures["network_transmit_megabytes"] = sent / MEGA
        return figures


def _gpus() -> Callable[[], dict[str, float]] | None:
    """Return what gives the figures of each GPU; None where none can be asked for them."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    except Exception:  # no package, no driver, no permission: each is an error of its own
        return None

    def figures() -> dict[str, float]:
        found: dict[str, float] = {}
        for number, handle in enumerate(handles):
            with contextlib.suppress(nvml.NVMLError):
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                busy = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
                found[f"gpu_{number}_utilization_percentage"] = float(busy)
                found[f"gpu_{number}_memory_usage_megabytes"] = memory.used / MEGA
                found[f"gpu_{number}_memory_usage_percentage"] = memory.used / memory.total * 100
            with contextlib.suppress(nvml.NVMLError):
                watts = nvml.nvmlDeviceGetPowerUsage(handle) / 1000
                found[f"gpu_{number}_power_usage_watts"] = watts
        return found

    return figures if handles else None
