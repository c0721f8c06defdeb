"""Checkpoints inside a task: all that an inner loop needs to go on, as safetensors.

    state-000000012000-<checksum>.safetensors    after 12,000 inner steps

Tensors are stored as they are; numbers, texts and the nesting go into the file's header as JSON.
Nothing here is a pickle. The name carries the checksum of the content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipeline.files import sha256_file, write_atomic

NAME = re.compile(r"state-(\d{12,19})-([0-9a-f]{16})\.safetensors")
TREE = "tree"  # key of the header's JSON
REFERENCE = "$tensor"  # stands in the JSON for a tensor of the file

CANNOT_BE_READ = (OSError, ValueError, KeyError, RecursionError, safetensors.SafetensorError)

State = dict[str, Any]


class DamagedStateError(Exception):
    """A checkpoint inside a task cannot be read; the message says why."""


def write_state(folder: Path, step: int, state: State, num_kept: int = 2) -> None:
    """Put the state after `step` inner steps on disk, whole or not at all; drop older ones.

    `num_kept` are left: the newest may be ahead of the rows that reached the driver before it died.

    `state` nests dicts with string keys around tensors, numbers, texts, booleans and None; its
    `version` is that of the outer parameters which the task began from.

    Raises:
        OSError: The folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_without_tensors(state, tensors))
    data = safetensors.torch.save(tensors, {TREE: tree})
    checksum = hashlib.sha256(data).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"state-{step:012d}-{checksum}.safetensors"
    write_atomic(path, data)
    others = sorted((found, other) for found, other in _states(folder) if other != path)
    kept = [other for other in others if other[0] < step][1 - num_kept :]
    for old in others:
        if old not in kept:
            _remove(old[1])


def drop_states_after(folder: Path, step: int) -> None:
    """Remove the states after more than `step` inner steps, which are to be taken again."""
    for found, path in list(_states(folder)):
        if found > step:
            _remove(path)


def state_steps(folder: Path) -> list[int]:
    """Return the inner steps that have a state on disk, ascending; sound or not."""
    return sorted({step for step, _ in _states(folder)})


def read_state(folder: Path, step: int) -> State:
    """Return the state after `step` inner steps, its tensors on the CPU.

    Raises:
        DamagedStateError: There is none, or it is not what was written.
    """
    return _found(folder, step, with_tensors=True)


def state_header(folder: Path, step: int) -> State:
    """Return the state after `step` inner steps without its tensors, once all of it was checked.

    Raises:
        DamagedStateError: There is none, or it is not what was written.
    """
    return _found(folder, step, with_tensors=False)


def check_state(path: Path) -> None:
    """Raise DamagedStateError unless the file at `path` is a state as it was written."""
    try:
        _read(path, with_tensors=False)
    except CANNOT_BE_READ as error:
        raise DamagedStateError(str(error)) from None


def _found(folder: Path, step: int, with_tensors: bool) -> State:
    reason = "there is none"
    for path in [path for found, path in _states(folder) if found == step]:
        try:
            return _read(path, with_tensors)
        except CANNOT_BE_READ as e:
            reason = f"{path.name}: {e}"
    raise DamagedStateError(f"{folder}: the state after {step} inner steps: {reason}")


def _states(folder: Path) -> Iterator[tuple[int, Path]]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if (match := NAME.fullmatch(path.name)) and path.is_file() and not path.is_symlink():
            yield int(match[1]), path


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _is_sound(path: Path) -> bool:
    match = NAME.fullmatch(path.name)
    try:
        return match is not None and sha256_file(path).startswith(match[2])
    except OSError:
        return False


def _read(path: Path, with_tensors: bool) -> State:
    if not _is_sound(path):
        raise ValueError("wrong checksum")
    with safetensors.safe_open(path, framework="pt") as file:
        tree = json.loads((file.metadata() or {})[TREE])
        if not isinstance(tree, dict) or not isinstance(tree.get("version"), int):
            raise ValueError("its header is that of no state")
        if not with_tensors:
            return tree
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {key: _with_tensors(value, tensors) for key, value in tree.items()}


def _without_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {REFERENCE: name}
    if isinstance(value, dict):
        return {key: _without_tensors(item, tensors) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a state cannot hold {type(value).__name__}")


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if value.keys() == {REFERENCE}:
        return tensors[value[REFERENCE]]
    return {key: _with_tensors(item, tensors) for key, item in value.items()}


def as_tensor(state: State, key: str) -> Tensor | None:
    """Return the tensor under `key`; None if nothing is there."""
    value = state.get(key)
    return value if isinstance(value, torch.Tensor) else None
