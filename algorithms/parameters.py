"""One flat tensor that a module's parameters are views of.

An inner or outer update is then a few vector operations, whatever the number of layers, and
what travels between processes is one array.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class ParameterSlot:
    """Where one parameter lies in the flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int  # of its first element

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def end(self) -> int:
        """Offset just after its last element."""
        return self.offset + self.size


class ParameterVector:
    """The parameters of a module, and their gradients, as two flat tensors.

    At all times:
      - `values` and `grads` [P] are contiguous and never replaced, only written to;
      - the order is that of `named_parameters()`, each parameter in row-major order, so the
        layout does not depend on the memory format that the model computes in;
      - buffers (batch-norm statistics) are no part of it: see `capture_buffers`.

    The constructor copies the module's values and binds it. Parameters that are frozen
    (`requires_grad` is false) are no part of it.
    """

    def __init__(
        self,
        module: nn.Module,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        """Lay out and bind `module`; `device` is by default that of its first parameter.

        Raises ValueError for a module without parameters.
        """
        named = learned_parameters(module)
        if not named:
            raise ValueError(f"{type(module).__name__} has no parameters to learn")
        self.layout = _lay_out(named)
        self.size = self.layout[-1].end
        device = named[0][1].device if device is None else device
        self.values = torch.cat([p.detach().reshape(-1).to(device, dtype) for _, p in named])
        self._grads = torch.zeros_like(self.values)
        self._bound: list[tuple[nn.Parameter, int]] = []
        self.bind(module)

    @property
    def grads(self) -> Tensor:
        """The gradients [P] of the module bound last.

        Raises RuntimeError if they do not gather here any more: `zero_grad()` replaces the views
        by None, and `backward` then by tensors of its own.
        """
        if not self._holds(self._bound):
            raise RuntimeError(
                "the module's parameters or gradients are no views into the vector any more: clear "
                "gradients with vector.grads.zero_() or zero_grad(set_to_none=False), move the "
                "module before the vector is made, or bind it again"
            )
        return self._grads

    def bind(self, module: nn.Module) -> None:
        """Make every parameter of `module` and its `.grad` a view into this vector.

        The vector's values win over the module's. Buffers move to the vector's device and
        floating-point type. Zero gradients with `grads.zero_()` or `zero_grad(set_to_none=False)`:
        `zero_grad()` drops the views, which `grads` then refuses.

        Raises ValueError if the module's parameters are not those of the layout.
        """
        found = _lay_out(learned_parameters(module))
        if found != self.layout:
            raise ValueError(
                f"{type(module).__name__} does not fit the layout: "
                f"{_first_difference(self.layout, found)}"
            )
        module.to(device=self.values.device, dtype=self.values.dtype)
        for slot, (_, parameter) in zip(self.layout, learned_parameters(module), strict=True):
            parameter.grad = None  # or a gradient of another type would forbid new data
            parameter.data = self._view(self.values, slot)
            parameter.grad = self._view(self._grads, slot)
        self._bound = self._places(module)

    def is_bound(self, module: nn.Module) -> bool:
        """Return whether every parameter of `module` and its `.grad` still lie in this vector."""
        return self._holds(self._places(module))

    def load(self, values: Tensor | NDArray[Any]) -> None:
        """Copy `values` [P] in; ValueError if the length is another."""
        # torch.tensor copies, and takes the read-only arrays of an object store in silence.
        source = torch.tensor(values) if isinstance(values, np.ndarray) else values
        if source.shape != self.values.shape:
            raise ValueError(f"expected {self.size} parameters, got shape {tuple(source.shape)}")
        self.values.copy_(source)

    def head_offset(self, prefix: str = "head.") -> int:
        """Return where the output layer's parameters, named `prefix`…, begin.

        What comes before is shared across tasks that have a head of their own. Raises
        ValueError unless the head is there and last in the layout.
        """
        is_head = [slot.name.startswith(prefix) for slot in self.layout]
        if True not in is_head:
            raise ValueError(f"no parameter's name begins with '{prefix}'")
        first = is_head.index(True)
        if not all(is_head[first:]):
            raise ValueError(f"parameters '{prefix}…' must come last in the module")
        return self.layout[first].offset

    def _places(self, module: nn.Module) -> list[tuple[nn.Parameter, int]]:
        """Return each parameter with its offset in bytes; an empty one has no address."""
        width = self.values.element_size()
        pairs = zip(learned_parameters(module), self.layout, strict=True)
        return [(p, slot.offset * width) for (_, p), slot in pairs if p.numel()]

    def _holds(self, places: list[tuple[nn.Parameter, int]]) -> bool:
        # By addresses alone: this is done in every inner step.
        values, grads = self.values.data_ptr(), self._grads.data_ptr()
        return all(
            parameter.grad is not None
            and parameter.grad.data_ptr() == grads + offset
            and parameter.data_ptr() == values + offset
            for parameter, offset in places
        )

    @staticmethod
    def _view(flat: Tensor, slot: ParameterSlot) -> Tensor:
        return flat[slot.offset : slot.end].view(slot.shape)


def learned_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the module's parameters by name, in their order, without those that are frozen."""
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def capture_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the module's buffers, e.g. batch-norm statistics before a task."""
    return {name: buffer.detach().clone() for name, buffer in module.named_buffers()}


def restore_buffers(module: nn.Module, buffers: dict[str, Tensor]) -> None:
    """Write back, in place, what `capture_buffers` returned; KeyError if one is missing."""
    for name, buffer in module.named_buffers():
        buffer.copy_(buffers[name])


def _lay_out(named: Iterable[tuple[str, nn.Parameter]]) -> tuple[ParameterSlot, ...]:
    slots: list[ParameterSlot] = []
    offset = 0
    for name, parameter in named:
        slots.append(ParameterSlot(name, tuple(parameter.shape), offset))
        offset = slots[-1].end
    return tuple(slots)


def _first_difference(expected: tuple[ParameterSlot, ...], found: tuple[ParameterSlot, ...]) -> str:
    for want, have in zip(expected, found, strict=False):
        if want != have:
            return f"expected {want.name} {want.shape}, got {have.name} {have.shape}"
    return f"expected {len(expected)} parameters, got {len(found)}"
