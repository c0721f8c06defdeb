"""A block of a convolutional encoder as one operation: convolution, batch-norm, ReLU, max-pool.

For a channel whose batch-norm weight is not negative, pooling and ReLU(weight · x + shift) may
be exchanged: both are monotone. So all that comes after the statistics is done on a fourth of the
values, and the normalised images in full size never exist. First and second derivatives are in
closed form: MAML's outer gradient differentiates the first ones, which autograd does with some
twenty passes over the images. There are no third derivatives. Where maxima tie (all do at a
weight of exactly zero), which value gets the gradient may be another than in the modules.

Notation: y [B, C, H, W] is the convolution's result, n = B·H·W, μ and r its mean and inverse
standard deviation by channel, ŷ = (y − μ)·r, p the pooled y, γ and β weight and bias of the
batch-norm. S places values [B, C, H/2, W/2] where the maxima of y were; Sᵀ takes them from there.

With g the gradient of the result, zero where ReLU was, b = Σ g and c = Σ g·p̂:

    ∂β = b,  ∂γ = c,  ∂y = γ r (S g − b/n − ŷ c/n)                                           (1)

With u, cγ, cβ the cotangents of ∂y, ∂γ, ∂β, U = Σ u, V = Σ u·ŷ, κ = cγ − γ r V/n, ν = −γ r c/n and
R = Σ g·Sᵀu − (b U + c V)/n, the gradients of ⟨u, ∂y⟩ + cγ·∂γ + cβ·∂β are, in the same order,

    for g:  γ r (Sᵀu − U/n − p̂ V/n) + cγ p̂ + cβ,  where ReLU was not zero
    for γ:  r R
    for y:  r (S κ g + ν u − (κ b + ν U)/n − ŷ (κ c + ν V + γ r R)/n)                        (2)
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d
from torch.overrides import _get_current_function_mode_stack

aten = torch.ops.aten

POOL = ([2, 2], [2, 2], [0, 0], [1, 1], False)  # kernel, stride, padding, dilation, ceil mode


def fused_block(conv: nn.Conv2d, norm: nn.BatchNorm2d, images: Tensor) -> Tensor:
    """Return max_pool2d(relu(norm(conv(images))), 2), normalised by the batch's statistics.

    Running statistics follow as in `norm`, if it is in training mode and tracks them.
    """
    weight: Tensor = conv.weight
    bias: Tensor | None = conv.bias
    gamma: Tensor = norm.weight
    if bool((gamma.detach() < 0).any()):  # a filter and its batch-norm weight change sign together
        sign = torch.where(gamma.detach() < 0, -1, 1).to(gamma.dtype)
        weight, gamma = weight * sign[:, None, None, None], gamma * sign
        bias = None if bias is None else bias * sign
    else:
        sign = None
    result: Tensor
    arguments = images, weight, bias, gamma, norm.bias, norm.eps
    result, mean, variance = _Block.apply(*arguments)  # type: ignore[no-untyped-call]
    if norm.track_running_stats:
        _follow(norm, mean if sign is None else mean * sign, variance, images)
    return result


def can_fuse(norm: nn.Module, conv: nn.Conv2d, images: Tensor) -> TypeGuard[nn.BatchNorm2d]:
    """Return whether `fused_block` does what the modules would do, and gains by it.

    It is for CPUs, for images with channels last, in 32 bits or more, normalised by the batch. Not
    for functorch's transforms, nor where a mode replaces batch-norm by another.
    """
    return (
        type(norm) is nn.BatchNorm2d
        and norm.affine
        and norm.training
        and torch._C._functorch.maybe_current_level() is None  # else layouts cannot be asked for
        and images.device.type == "cpu"
        and images.ndim == 4
        and min(images.shape) > 0
        and min(images.shape[2:]) > 1
        and images.is_contiguous(memory_format=torch.channels_last)
        and images.dtype in (torch.float32, torch.float64)
        and images.dtype is conv.weight.dtype
        and not torch.is_autocast_enabled("cpu")
        and not _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    )


class _Block(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, gamma: Tensor, beta: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        y = conv2d(x, weight, bias, padding=1)
        mean, variance = aten.batch_norm_update_stats(y, None, None, 0.0)
        rstd = torch.rsqrt(variance + eps)
        pooled, places = aten.max_pool2d_with_indices(y, *POOL)
        scale = gamma * rstd
        result = torch.addcmul(_spread(beta - mean * scale), pooled, _spread(scale)).relu_()
        ctx.save_for_backward(x, weight, bias, gamma, y, pooled, places, mean, rstd, result)
        ctx.mark_non_differentiable(mean, variance)
        return result, mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, bias, gamma, *rest = ctx.saved_tensors
        arguments = grad, x, weight, gamma, *rest, ctx.needs_input_grad[0]
        dx, dweight, dgamma, dbeta = _Gradient.apply(*arguments)  # type: ignore[no-untyped-call]
        # The batch's mean takes the convolution's bias out again.
        return dx, dweight, None if bias is None else torch.zeros_like(bias), dgamma, dbeta, None


class _Gradient(Function):
    """Equation 1, then back through the convolution; equation 2 is its derivative."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, gamma: Tensor, y: Tensor, pooled: Tensor,
        places: Tensor, mean: Tensor, rstd: Tensor, result: Tensor, needs_x: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:  # fmt: skip
        g = aten.threshold_backward(_channels_last(grad), result, 0)
        c, b = _sums(g, pooled, mean, rstd)
        scale = gamma * rstd
        slope = -scale * rstd * c / _count(y)
        dy = _scatter(g * _spread(scale), y, places).addcmul_(y, _spread(slope))
        dy.add_(_spread(-scale * b / _count(y) - slope * mean))
        dx, dweight = _through_convolution(dy, x, weight, needs_x)
        ctx.save_for_backward(x, weight, gamma, y, pooled, places, mean, rstd, result, g, b, c, dy)
        ctx.needs_x = needs_x
        return dx, dweight, c, b

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, ux: Tensor | None, uweight: Tensor, cgamma: Tensor, cbeta: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight, gamma, y, pooled, places, mean, rstd, result, g, b, c, dy = ctx.saved_tensors
        u = conv2d(x, uweight, padding=1)
        if ux is not None and ctx.needs_x:
            u += conv2d(_channels_last(ux), weight, padding=1)
        v_sum, u_sum = _sums(u, y, mean, rstd)
        n, scale = _count(y), gamma * rstd
        u_pooled = u.flatten(2).gather(2, places.flatten(2)).view_as(pooled)
        kappa, nu = cgamma - scale * v_sum / n, -scale * c / n
        rest = (u_pooled * g).sum((0, 2, 3)) - (b * u_sum + c * v_sum) / n

        steep = rstd * kappa
        dgrad = torch.addcmul(
            _spread(cbeta - scale * u_sum / n - mean * steep), pooled, _spread(steep)
        ).addcmul_(u_pooled, _spread(scale))
        dgrad = aten.threshold_backward(dgrad, result, 0)

        slope = -rstd.square() * (kappa * c + nu * v_sum + scale * rest) / n
        ddy = _scatter(g * _spread(steep), y, places).addcmul_(u, _spread(rstd * nu))
        ddy.addcmul_(y, _spread(slope))
        ddy.add_(_spread(-rstd * (kappa * b + nu * u_sum) / n - slope * mean))
        dx, dweight = _through_convolution(ddy, x, weight, ctx.needs_x)
        if ux is not None and ctx.needs_x:
            more_x, more_weight = _through_convolution(dy, _channels_last(ux), uweight, True)
            dx, dweight = dx + more_x, dweight + more_weight
        return dgrad, dx, dweight, rstd * rest, *[None] * 7


def _through_convolution(
    dy: Tensor, x: Tensor, weight: Tensor, needs_x: bool
) -> tuple[Any, Tensor]:
    mask = [needs_x, True, False]
    dx, dweight, _ = aten.convolution_backward(
        dy, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
    )
    return dx, dweight


def _sums(grad: Tensor, values: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ grad·(values − mean)·rstd and Σ grad of each channel, in one pass."""
    _, products, sums = aten.native_batch_norm_backward(
        grad, values, rstd, None, None, mean, rstd, True, 0.0, [False, True, True]
    )
    return products, sums


def _scatter(values: Tensor, y: Tensor, places: Tensor) -> Tensor:
    scattered: Tensor = aten.max_pool2d_with_indices_backward(values, y, *POOL, places)
    return scattered


def _follow(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, images: Tensor) -> None:
    """Move the running statistics as `nn.BatchNorm2d` does: the variance is the unbiased one."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    with torch.no_grad():
        norm.num_batches_tracked += 1
        momentum = norm.momentum
        rate = 1.0 / float(norm.num_batches_tracked) if momentum is None else momentum
        n = _count(images)
        norm.running_mean.lerp_(mean, rate)
        norm.running_var.lerp_(variance * (n / (n - 1)), rate)


def _count(y: Tensor) -> int:
    return y.numel() // y.shape[1]


def _spread(by_channel: Tensor) -> Tensor:
    return by_channel[:, None, None]


def _channels_last(grad: Tensor) -> Tensor:
    return grad.contiguous(memory_format=torch.channels_last)
