"""Learned update rule: an LSTM whose cell state is the parameters of the network that it trains.

Ravi and Larochelle (2017), "Optimization as a Model for Few-Shot Learning", ICLR: update in
eq. 2, gates in section 3.1, preprocessing in section 3.2 (after Andrychowicz et al. 2016,
arXiv:1606.04474, appendix A), Algorithm 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from algorithms.episodic.gradient_learner import GradientLearner, Params
from algorithms.episodic.learner import query_loss
from algorithms.episodic.options import check_count, check_switch
from algorithms.parameters import learned_parameters
from algorithms.types import Encoder

PREPROCESSING = 10.0  # p of section 3.2

Gates = tuple[Tensor, Tensor]  # forget and input gate of each parameter, [P, 1] each
Hidden = tuple[Tensor, Tensor]  # of the first layer, [P, hidden_size] each


class LearnedOptimizer(GradientLearner):
    """Learns both where to start and how to step: θ_t = f_t · θ_{t−1} − i_t · ∇_t.

    The encoder's and the head's own parameters are the learned initial cell state θ_0. All
    parameters share the weights of the gates, and each has a state of its own. Frozen parameters
    of the encoder stay as they are.

    In meta-training, batch-norm uses the statistics of the queries on the queries, whatever
    `transductive` says, as in section 3.3 of the paper. In evaluation a learner that is not
    transductive uses those of the support set; the paper's running averages over the inner steps
    of the same support set are replaced by the statistics at the adapted parameters.

    Args:
        encoder: Maps inputs to features, which are flattened.
        num_outputs: Outputs of the linear head: N ways, or D targets of a regression.
        regression: Whether support sets have targets, learned by their mean squared error.
        num_steps: Inner steps T, each on the whole support set.
        hidden_size: Width of the first layer of the LSTM.
        first_order: Take the gradients and losses of the inner steps as constants, as in the
            paper (section 3.4); false differentiates through them.
        transductive: Whether queries are normalised by their own statistics in evaluation.

    Raises:
        TypeError, ValueError: An option is out of range; the message begins with its name.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_outputs: int,
        regression: bool = False,
        *,
        num_steps: int = 5,
        hidden_size: int = 20,
        first_order: bool = True,
        transductive: bool = False,
    ) -> None:
        super().__init__(encoder, num_outputs, transductive, regression)
        check_count("num_steps", num_steps)
        check_count("hidden_size", hidden_size)
        check_switch("first_order", first_order)
        self.num_steps = num_steps
        self.first_order = first_order
        self._trained = [name for name, _ in learned_parameters(self)]
        self.first_layer = nn.LSTMCell(4, hidden_size)
        self.update_rule = UpdateRule(hidden_size)

    @property
    def normalises_together(self) -> bool:
        """Whether queries are normalised by their own statistics."""
        return self.training or self.transductive

    def learn(self, support_x: Tensor, support_y: Tensor) -> Params:
        """Return the cell state after the last step, as parameters of the network."""
        own = dict(self.named_parameters())
        shapes = {name: own[name].shape for name in self._trained}
        cell = torch.cat([own[name].reshape(-1) for name in self._trained])
        hidden: Hidden | None = None
        gates: Gates | None = None
        for _ in range(self.num_steps):
            loss, grad = self._loss_and_gradient(cell, shapes, support_x, support_y)
            # In bfloat16 a forget gate near 1 would be off by more than a step moves.
            with torch.autocast(cell.device.type, enabled=False):
                hidden = self.first_layer(_coordinates(grad, loss), hidden)
                cell, gates = self.update_rule(hidden[0], cell, grad, gates)
        return _unflatten(cell, shapes)

    def _loss_and_gradient(
        self, cell: Tensor, shapes: dict[str, torch.Size], x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss (shape []) of the support set and its gradient [P] at `cell` [P]."""
        second_order = self.training and not self.first_order
        with torch.enable_grad():
            point = cell if second_order else cell.detach().requires_grad_()
            loss = query_loss(self.outputs(x, _unflatten(point, shapes)), y)
            (grad,) = torch.autograd.grad(loss, point, create_graph=second_order)
        return (loss, grad) if second_order else (loss.detach(), grad)


class UpdateRule(nn.Module):
    """Second layer of the LSTM: its forget and input gate, and its cell state.

    With h_t the first layer's output: f_t = σ(W_f·[h_t, θ_{t−1}, f_{t−1}] + b_f), and i_t alike;
    both gates are zero before the first step.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.forget_gate = nn.Linear(hidden_size + 2, 1)
        self.input_gate = nn.Linear(hidden_size + 2, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights so small that it begins as gradient descent: f near 1, i near 0.01."""
        for gate, low, high in ((self.forget_gate, 4.0, 6.0), (self.input_gate, -5.0, -4.0)):
            nn.init.uniform_(gate.weight, -0.01, 0.01)
            nn.init.uniform_(gate.bias, low, high)

    def forward(
        self, hidden: Tensor, cell: Tensor, grad: Tensor, gates: Gates | None
    ) -> tuple[Tensor, Gates]:
        """Return the next cell state [P], and the gates that led to it."""
        column = cell[:, None]
        forget, enter = (torch.zeros_like(column),) * 2 if gates is None else gates
        forget = torch.sigmoid(self.forget_gate(torch.cat([hidden, column, forget], dim=1)))
        enter = torch.sigmoid(self.input_gate(torch.cat([hidden, column, enter], dim=1)))
        return forget[:, 0] * cell - enter[:, 0] * grad, (forget, enter)


def preprocess(values: Tensor) -> Tensor:
    """Return two numbers [·, 2] for each of `values` [·], of a size that a network can take.

    (log|x| / p, sign x) where |x| ≥ e^−p, otherwise (−1, e^p · x); p = 10.
    """
    threshold = math.exp(-PREPROCESSING)
    size = values.abs().clamp(min=threshold).log() / PREPROCESSING
    sign = torch.where(values.abs() >= threshold, values.sign(), values / threshold)
    return torch.stack([size, sign], dim=1)


def _coordinates(grad: Tensor, loss: Tensor) -> Tensor:
    """Return the first layer's input [P, 4] from a gradient [P] and a loss (shape [])."""
    return torch.cat([preprocess(grad), preprocess(loss[None]).expand(len(grad), 2)], dim=1)


def _unflatten(cell: Tensor, shapes: dict[str, torch.Size]) -> Params:
    pieces = cell.split_with_sizes([shape.numel() for shape in shapes.values()])
    return {
        name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }
