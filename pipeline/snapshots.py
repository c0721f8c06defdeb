"""Thinned snapshots of a task's parameters, to look at its path afterwards.

    snapshots/step-000012-task-000003/params-000000004000.safetensors

One vector `params` (float32 [P]: the network's parameters, its output layer included) in each.
"""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from torch import Tensor

from pipeline.files import write_atomic


def write_snapshot(task_folder: Path, step: int, values: Tensor) -> None:
    """Write the parameters [P] after `step` inner steps of the task whose journal is `task_folder`.

    Raises OSError if the run's folder cannot be written.
    """
    folder = task_folder.parent.parent / "snapshots" / task_folder.name
    folder.mkdir(parents=True, exist_ok=True)
    params = values.detach().to("cpu", copy=True)
    write_atomic(
        folder / f"params-{step:012d}.safetensors", safetensors.torch.save({"params": params})
    )
