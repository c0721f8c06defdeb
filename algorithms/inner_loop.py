"""The only inner loop: trains a model on one task and shows each step to a fold."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from algorithms.inner_updates import (
    AdamUpdate,
    ClippedUpdate,
    InnerUpdate,
    MomentumUpdate,
    RMSPropUpdate,
    SGDUpdate,
)
from algorithms.parameters import ParameterVector, capture_buffers, restore_buffers
from algorithms.types import Task, TrajectoryFold


@dataclass(frozen=True, slots=True)
class InnerOptimizer:
    """Settings of the optimizer within a task; its state starts anew with each task."""

    name: Literal["sgd", "adam", "rmsprop"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.0  # of SGD
    beta1: float = 0.9  # of Adam: decay rate of its mean
    alpha: float = 0.99  # of RMSProp: decay rate of its mean square
    eps: float = 1e-4  # of RMSProp: added to the root of the mean square
    max_grad_norm: float = 0.0  # ‖g‖ is clipped to this; 0: no clipping
    schedule: Literal["constant", "cosine"] = "constant"  # of `lr`, within a task
    num_steps: int = 0  # K, at which a cosine schedule reaches 0

    def lr_at(self, step: int) -> float:
        """Return the learning rate of inner step `step`.

        Cosine annealing: Loshchilov and Hutter (2017), arXiv:1608.03983, eq. 5, one cycle to 0.
        """
        if self.schedule == "constant":
            return self.lr
        return 0.5 * self.lr * (1 + math.cos(math.pi * min(step / self.num_steps, 1.0)))

    def start(self, vector: ParameterVector) -> InnerUpdate:
        """Return the update rule for `vector`; ValueError for an unknown name or a bad norm."""
        if self.max_grad_norm < 0:
            raise ValueError(
                f"max_grad_norm: expected a positive norm, or 0 for none, got {self.max_grad_norm}"
            )
        update = self._start_unclipped(vector)
        if self.max_grad_norm:
            return ClippedUpdate(vector, update, self.max_grad_norm)
        return update

    def _start_unclipped(self, vector: ParameterVector) -> InnerUpdate:
        if self.name == "adam":
            return AdamUpdate(vector, self.beta1)
        if self.name == "rmsprop":
            return RMSPropUpdate(vector, self.alpha, self.eps)
        if self.name != "sgd":
            raise ValueError(f"unknown inner optimizer '{self.name}'; known: sgd, adam, rmsprop")
        if self.momentum:
            return MomentumUpdate(vector, self.momentum)
        return SGDUpdate(vector)


@dataclass(frozen=True, slots=True)
class StepRecords:
    """Figures of n consecutive inner steps: float32 tensors [n] on the CPU."""

    loss: Tensor  # f_i, before the update
    error: Tensor  # share of the minibatch misclassified; NaN where the task reports none
    grad_norm: Tensor  # ‖g_i‖
    path_length: Tensor  # Σ ‖Δθ‖ from the start of the task to the end of step i
    lr: Tensor  # learning rate of the step
    # What else the task reports, by name: float64, NaN in steps in which it did not.
    figures: dict[str, Tensor] = field(default_factory=dict)


class InnerLoop:
    """Trains `model`, whose parameters are views into `vector`, on `task`, n steps at a time.

    Parameters start from what `vector` holds and buffers from what the model holds: restore both
    before each task. Nothing in a step waits for the device, and memory does not depend on the
    number of steps taken. The loop draws no random numbers; a model that does (dropout) is for
    the caller to seed.
    """

    def __init__(
        self,
        model: nn.Module,
        vector: ParameterVector,
        task: Task,
        optimizer: InnerOptimizer,
        fold: TrajectoryFold | None = None,
        precision: torch.dtype = torch.float32,
        num_shared: int | None = None,
    ) -> None:
        """Set up the loop before its first step.

        Args:
            model: Bound to `vector`.
            vector: Parameters and gradients.
            task: Where losses come from.
            optimizer: Settings of the update rule.
            fold: Sees every step; None to train only.
            precision: bfloat16 runs the task's loss under autocast; float32 computes in the
                parameters' own type.
            num_shared: Leading elements of the vector that are shared across tasks: the fold sees
                these alone. All of them by default.

        Raises:
            ValueError: `precision` or the optimizer's name is another, max_grad_norm is negative,
                or a cosine schedule has no number of steps.
        """
        if precision not in (torch.float32, torch.bfloat16):
            raise ValueError(f"precision: expected float32 or bfloat16, got {precision}")
        if optimizer.schedule == "cosine" and optimizer.num_steps < 1:
            raise ValueError("a cosine schedule needs num_steps, the steps of the whole task")
        self.model = model
        self.vector = vector
        self.shared = vector.values[:num_shared]
        self.task = task
        self.fold = fold
        self.step = 0  # inner steps taken
        self._optimizer = optimizer
        self._update = optimizer.start(vector)
        self._precision = precision
        # float64: a million short steps would vanish beside a long path.
        self._path_length = vector.values.new_zeros((), dtype=torch.float64)

    def run(self, num_steps: int) -> StepRecords:
        """Take `num_steps` inner steps and return their figures; waits for the device at the end.

        Raises RuntimeError if the model's gradients do not gather in the vector.
        """
        self.model.train()
        rows = self.vector.values.new_full((num_steps, 3), float("nan"))
        reported: dict[str, Tensor] = {}
        for number, row in enumerate(rows.unbind()):
            self._take_step(row)
            for name, figure in self.task.training_metrics().items():
                if name not in reported:
                    reported[name] = rows.new_full((num_steps,), math.nan, dtype=torch.float64)
                reported[name][number].copy_(figure)
            if number == 0 and not self.vector.is_bound(self.model):
                raise RuntimeError(
                    "the model's parameters or gradients are no views into the vector: "
                    "bind it, and clear gradients with vector.grads.zero_() alone"
                )
        taken = range(self.step - num_steps, self.step)
        lr = torch.tensor([self._optimizer.lr_at(step) for step in taken])
        loss, grad_norm, path_length = rows.to("cpu", torch.float32).T.contiguous()
        figures = {name: column.cpu() for name, column in reported.items()}
        error = figures.pop("error", torch.full_like(lr, math.nan)).float()
        return StepRecords(loss, error, grad_norm, path_length, lr, figures)

    def finish(self) -> Tensor | None:
        """Return the rest of the outer gradient [P]; None without a fold.

        The loss at the last parameters, where the fold wants it, is evaluated on the minibatch
        of the step that would come next.
        """
        if self.fold is None:
            return None
        loss = self._final_loss() if self.fold.needs_final_loss else None
        return self.fold.finish(self.shared, loss)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all that a new loop needs to go on bitwise where this one stands."""
        return {
            "step": self.step,
            "path_length": self._path_length.clone(),
            "values": self.vector.values.clone(),
            "buffers": capture_buffers(self.model),
            "optimizer": self._update.state_dict(),
            "fold": {} if self.fold is None else self.fold.state_dict(),
            "task": self.task.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, parameters and buffers included."""
        self.step = state["step"]
        self._path_length.copy_(state["path_length"])
        self.vector.load(state["values"])
        restore_buffers(self.model, state["buffers"])
        self._update.load_state_dict(state["optimizer"])
        if self.fold is not None:
            self.fold.load_state_dict(state["fold"])
        self.task.load_state_dict(state["task"])

    def _take_step(self, row: Tensor) -> None:
        grads = self.vector.grads
        grads.zero_()
        loss = self._loss()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        loss = loss.detach()
        if self.fold is not None:
            self.fold.observe(loss, grads[: len(self.shared)], self.shared)
        grad_norm = torch.linalg.vector_norm(grads)
        lr = self._optimizer.lr_at(self.step)
        self._path_length.add_(self._update.apply(grad_norm, lr))
        self.step += 1
        loss_cell, grad_norm_cell, path_length_cell = row.unbind()
        loss_cell.copy_(loss)
        grad_norm_cell.copy_(grad_norm)
        path_length_cell.copy_(self._path_length)

    def _loss(self) -> Tensor:
        is_mixed = self._precision is torch.bfloat16
        with torch.autocast(self.vector.values.device.type, torch.bfloat16, enabled=is_mixed):
            return self.task.loss(self.model, self.step)

    def _final_loss(self) -> Tensor:
        # As a step would see it, but without a trace in the batch-norm statistics: the adapted
        # model must not depend on which meta-learner watched.
        self.model.train()
        buffers = capture_buffers(self.model)
        with torch.no_grad():
            loss = self._loss()
        restore_buffers(self.model, buffers)
        return loss
