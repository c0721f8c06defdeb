"""Leap: learn an initialisation from which task training travels a short path.

Flennerhag et al. (2019), "Transferring Knowledge across Learning Processes", arXiv:1812.01054:
pull-forward objective in eq. 6, whole loop in Algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Leap:
    """The meta-learner; option names are those of the authors' code.

    For inner steps i = 0..K-1 with parameters θ_i, loss f_i and gradient g_i on the minibatch
    of step i, Δθ = θ_{i+1} − θ_i and Δf = −|f_{i+1} − f_i|, the outer gradient is

        Σ_i −(Δθ + Δf·g_i) / sqrt(‖Δθ‖² + Δf²).

    A segment of length zero pulls nowhere. The factor 2 that the derivative of the energy has
    is left to the outer learning rate, as the authors do.

    The sum is the equation as written, over all K segments: f_K is the loss at θ_K on minibatch
    K, which the inner loop evaluates without taking a step. The authors' code instead drops the
    last segment, so that K observations count K − 1 of them; with all of them counted,
    `Leap(norm=False, loss=False)` is exactly Reptile.
    """

    multi_head = False

    def __init__(self, norm: bool = True, loss: bool = True, stabilizer: bool = True) -> None:
        """Choose the objective.

        Args:
            norm: length of the path (d1); False takes its energy (d2): no division.
            loss: measure the path on the loss surface; False drops Δf, also from the length.
            stabilizer: a step on which the loss rose still pulls forward; False takes
                Δf = f_{i+1} − f_i.

        Raises:
            TypeError: an option is no boolean.
        """
        for name, value in (("norm", norm), ("loss", loss), ("stabilizer", stabilizer)):
            if not isinstance(value, bool):
                raise TypeError(f"{name}: expected true or false, got {value!r}")
        self.norm = norm
        self.loss = loss
        self.stabilizer = stabilizer

    def start(self, params: Tensor) -> LeapFold:
        """Begin the fold of one task that starts from `params` (shape [P])."""
        return LeapFold(self, params)


class LeapFold:
    """Sums the pulls of one task's path segments.

    A segment is closed when its far end is seen: by the next `observe`, or by `finish`.
    Nothing waits for the device.
    """

    def __init__(self, options: Leap, params: Tensor) -> None:
        self.needs_final_loss = options.loss
        self._options = options
        self._total = torch.zeros_like(params)
        self._num_observed = 0
        # The near end of the open segment.
        self._params = params.detach().clone()
        self._grad = torch.zeros_like(params)
        self._loss = params.new_zeros(())

    def observe(self, loss: Tensor, grad: Tensor, params: Tensor) -> None:
        """See inner step i before its update; closes segment i − 1."""
        if self._num_observed:
            self._close(params, loss)
        self._num_observed += 1
        self._params.copy_(params)
        if self._options.loss:
            self._grad.copy_(grad)
            self._loss.copy_(loss.detach())

    def drain(self, params: Tensor) -> Tensor:
        """Return and forget the pulls of the closed segments [P]."""
        drained = self._total.clone()
        self._total.zero_()
        return drained

    def finish(self, params: Tensor, loss: Tensor | None) -> Tensor:
        """Close the last segment at θ_K and f_K; return the rest of the outer gradient [P].

        Raises ValueError if the loss is part of the path and `loss` is None.
        """
        if self.needs_final_loss and loss is None:
            raise ValueError("Leap with its loss term needs the loss at the last parameters")
        if self._num_observed:
            self._close(params, self._loss if loss is None else loss)
            self._num_observed = 0
        return self.drain(params)

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the sum and of the open segment's near end."""
        return {
            "total": self._total.clone(),
            "params": self._params.clone(),
            "grad": self._grad.clone(),
            "loss": self._loss.clone(),
            "num_observed": torch.tensor(self._num_observed),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._total.copy_(state["total"])
        self._params.copy_(state["params"])
        self._grad.copy_(state["grad"])
        self._loss.copy_(state["loss"])
        self._num_observed = int(state["num_observed"])

    def _close(self, params: Tensor, loss: Tensor) -> None:
        minus_step = self._params.sub_(params)  # −Δθ; the near end is not needed any more
        length = torch.linalg.vector_norm(minus_step)
        if self._options.loss:
            minus_rise = self._loss - loss.detach()  # −Δf
            if self._options.stabilizer:
                minus_rise = minus_rise.abs()
            length = torch.hypot(length, minus_rise)
        # Scales stay tensors: a Python float here would stall a GPU on every inner step.
        scale = torch.ones_like(length)
        if self._options.norm:
            # Below `tiny` the length counts as zero, or its reciprocal would overflow.
            tiny = torch.finfo(length.dtype).tiny
            scale = torch.where(length >= tiny, length.reciprocal(), 0.0)
        self._total.addcmul_(minus_step, scale)
        if self._options.loss:
            self._total.addcmul_(self._grad, minus_rise * scale)
