"""MAML: learn parameters from which a few gradient steps on the support set learn its task.

Finn, Abbeel and Levine (2017), "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
Networks", arXiv:1703.03400: inner step in eq. 1, outer gradient in Algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear

from algorithms.episodic.gradient_learner import GradientLearner, Params
from algorithms.episodic.inner_rates import LEARNED_RATES, InnerRates
from algorithms.episodic.learner import batch_statistics, query_loss
from algorithms.episodic.options import check_count, check_positive, check_switch
from algorithms.parameters import learned_parameters
from algorithms.types import Encoder

ADAPTED = ("all", "head")


class MAML(GradientLearner):
    """Gradient steps θ ← θ − lr · ∇L_support(θ) from the learned parameters.

    The outer gradient is that of the loss of the queries after the last step, through all steps.
    Parameters of the encoder that are frozen when the learner is made are never adapted.

    Args:
        encoder: Maps inputs to features, which are flattened.
        num_outputs: Outputs of the linear head: N ways, or D targets of a regression.
        regression: Whether support sets have targets, learned by their mean squared error.
        lr: Rate of the inner steps; 0.4 is the paper's for 5-way Omniglot, 0.01 for sinusoids.
        num_steps: Inner steps in meta-training.
        eval_num_steps: Inner steps in evaluation.
        first_order: Take the gradients of the inner steps as constants (section 5.2).
        adapt: "all", or "head": the inner steps move the output layer alone, which is ANIL,
            Raghu et al. (2020), arXiv:1909.09157.
        learned_lr: "none", "per_step", "per_layer" or "per_parameter": see `InnerRates`.
        transductive: Whether queries are normalised by their own statistics, as in the paper, or
            by the support set's.

    Raises:
        TypeError, ValueError: An option is out of range; the message begins with its name.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_outputs: int,
        regression: bool = False,
        *,
        lr: float = 0.4,
        num_steps: int = 1,
        eval_num_steps: int = 3,
        first_order: bool = False,
        adapt: str = "all",
        learned_lr: str = "none",
        transductive: bool = True,
    ) -> None:
        super().__init__(encoder, num_outputs, transductive, regression)
        check_positive("lr", lr)
        check_count("num_steps", num_steps)
        check_count("eval_num_steps", eval_num_steps)
        check_switch("first_order", first_order)
        for name, value, choices in (
            ("adapt", adapt, ADAPTED),
            ("learned_lr", learned_lr, LEARNED_RATES),
        ):
            if value not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
        self.lr = lr
        self.num_steps = num_steps
        self.eval_num_steps = eval_num_steps
        self.first_order = first_order
        self.head_only = adapt == "head"
        named = learned_parameters(self)
        adapted = [(n, p) for n, p in named if not self.head_only or n.startswith("head.")]
        self._adapted = [name for name, _ in adapted]
        self.rates = None
        if learned_lr != "none":
            self.rates = InnerRates(learned_lr, lr, num_steps, [p.shape for _, p in adapted])

    def learn(self, support_x: Tensor, support_y: Tensor) -> Params:
        """Return the parameters after the inner steps."""
        if not self.head_only:
            return self._descend(partial(self.outputs, support_x), support_y)
        # Only through second derivatives does the outer gradient reach these features.
        with batch_statistics(self.encoder), torch.set_grad_enabled(self._second_order):
            features = self.encoder(support_x).flatten(1)
        return self._descend(partial(_head_outputs, features), support_y)

    @property
    def _second_order(self) -> bool:
        return self.training and not self.first_order

    def _descend(self, outputs: Callable[[Params], Tensor], targets: Tensor) -> Params:
        """Return the parameters after the inner steps, given the support set's outputs of them."""
        parameters = dict(self.named_parameters())
        params: Params = {name: parameters[name] for name in self._adapted}
        for step in range(self.num_steps if self.training else self.eval_num_steps):
            if not self.training:  # each step a graph of its own, which its gradient frees
                params = {name: p.detach().requires_grad_() for name, p in params.items()}
            with torch.enable_grad():
                loss = query_loss(outputs(params), targets)
                grads = torch.autograd.grad(
                    loss, list(params.values()), create_graph=self._second_order
                )
            rates = self.rates(step) if self.rates else [self.lr] * len(grads)
            params = {
                name: p - rate * grad
                for (name, p), rate, grad in zip(params.items(), rates, grads, strict=True)
            }
        return params


def _head_outputs(features: Tensor, params: Params) -> Tensor:
    return linear(features, params["head.weight"], params["head.bias"])
