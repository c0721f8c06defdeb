"""Baselines that every meta-learner is measured against: scratch and multi-headed finetuning."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from algorithms.parameters import learned_parameters
from algorithms.trajectory.reptile import DisplacementFold


class Finetune:
    """Joint training on all tasks, each with an output layer of its own.

    The outer gradient is the displacement θ_0 − θ_K of the shared parameters. With K = 1 inner
    SGD step and an outer SGD step of rate 1 that is joint SGD, one gradient from each task of
    the meta-batch; with K > 1 it is its local-SGD (federated averaging) form, McMahan et al.
    (2017), arXiv:1602.05629. Held-out tasks start from the shared parameters and a fresh head.
    """

    multi_head = True

    def start(self, params: Tensor) -> DisplacementFold:
        """Begin the fold of one task that starts from `params` (shape [P])."""
        return DisplacementFold(params)


def initial_parameters(module: nn.Module, seed: int) -> Tensor:
    """Return a fresh random initialisation of `module`: float32 [P] on the CPU.

    The order is that of `ParameterVector`. Each submodule's own `reset_parameters` draws it,
    children first, so a module may override what its children drew. The same seed gives the
    same values on every device; neither the module nor the global generators are touched.

    Raises ValueError for a submodule that has parameters but no `reset_parameters`.
    """
    fresh = copy.deepcopy(module).to(device="cpu", dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        fresh.apply(_reset)
    return torch.cat([p.detach().reshape(-1) for _, p in learned_parameters(fresh)])


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
    elif next(module.parameters(recurse=False), None) is not None:
        raise ValueError(
            f"{type(module).__name__} has parameters but no reset_parameters() to draw them"
        )
