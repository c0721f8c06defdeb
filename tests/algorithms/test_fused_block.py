"""The fused block is the modules it stands for: values, first and second derivatives."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, conv2d, max_pool2d, relu

from algorithms.episodic.learner import batch_statistics
from algorithms.episodic.support_statistics import SupportStatistics
from algorithms.models.conv import ConvBlock
from algorithms.models.fused_block import can_fuse, fused_block


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def arguments(in_channels, side, weights):
    """Images, convolution's weight and bias, batch-norm's weight and bias; some weights < 0."""
    images = draw(3, in_channels, side, side).to(memory_format=torch.channels_last)
    shapes = [(4, in_channels, 3, 3), (4,), (4,)]
    weight, bias, beta = (draw(*shape, seed=n + 1) for n, shape in enumerate(shapes))
    gamma = torch.tensor(weights, dtype=torch.float64)
    return [t.requires_grad_() for t in (images, weight, bias, gamma, beta)]


def fused(images, weight, bias, gamma, beta):
    norm = SimpleNamespace(weight=gamma, bias=beta, eps=1e-5, track_running_stats=False)
    return fused_block(SimpleNamespace(weight=weight, bias=bias), norm, images)


def composed(images, weight, bias, gamma, beta):
    convolved = conv2d(images, weight, bias, padding=1)
    return max_pool2d(relu(batch_norm(convolved, None, None, gamma, beta, True, 0.1, 1e-5)), 2)


def derivatives(block, inputs):
    """Return values, gradients, and gradients of a function of both."""
    result = block(*inputs)
    first = torch.autograd.grad((result * draw(*result.shape)).sum(), inputs, create_graph=True)
    mixed = (result**2).sum()
    for n, gradient in enumerate(first):
        if gradient.requires_grad:  # that of the convolution's bias is zero, whatever the inputs
            mixed = mixed + (gradient * draw(*gradient.shape, seed=9 + n)).sum()
    return result, *first, *torch.autograd.grad(mixed, inputs)


@pytest.mark.parametrize(("in_channels", "side"), [(1, 8), (3, 7)])
@pytest.mark.parametrize("weights", [(1.0, 0.5, 2.0, 0.7), (1.0, -0.5, 0.1, -2.0)])
def test_values_and_derivatives_are_those_of_the_composition(in_channels, side, weights):
    inputs = arguments(in_channels, side, weights)

    ours, expected = derivatives(fused, inputs), derivatives(composed, inputs)

    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


def blocks():
    """A block, and the modules of the same weights one after the other."""
    torch.manual_seed(0)
    block = ConvBlock(2, 4, batch_norm=True, pool_first=False).double()
    torch.manual_seed(0)
    modules = ConvBlock(2, 4, batch_norm=True, pool_first=False).double()
    modules.pool = nn.Sequential(modules.pool)  # what the block does not know it does not fuse
    return block, modules


def last(*shape):
    return draw(*shape).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_follow_as_in_the_modules(momentum):
    block, modules = blocks()
    for each in (block, modules):
        each.norm.momentum = momentum
        with torch.no_grad():
            each.norm.weight[1] = -1
        for seed in range(3):
            each(last(5, 2, 6, 6) + seed)

    assert can_fuse(block.norm, block.conv, last(5, 2, 6, 6))
    for mine, theirs in zip(block.norm.buffers(), modules.norm.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_evaluation_uses_the_running_statistics_and_batch_statistics_leaves_them():
    block, modules = blocks()
    images = last(5, 2, 6, 6)

    assert torch.equal(block.eval()(images), modules.eval()(images))
    before = [buffer.clone() for buffer in block.norm.buffers()]
    with batch_statistics(block), batch_statistics(modules):
        torch.testing.assert_close(block(images), modules(images))
    assert all(map(torch.equal, before, block.norm.buffers()))


def test_vectorised_over_tasks_the_block_is_the_modules():
    block, modules = blocks()
    images = torch.stack([last(5, 2, 6, 6), last(5, 2, 6, 6) + 1])

    with batch_statistics(block), batch_statistics(modules):
        mine, theirs = torch.func.vmap(block)(images), torch.func.vmap(modules)(images)

    torch.testing.assert_close(mine, theirs)


def test_where_others_statistics_stand_in_the_block_is_the_modules():
    block, modules = blocks()
    images = last(5, 2, 6, 6)
    assert can_fuse(block.norm, block.conv, images)
    with SupportStatistics(2):
        assert not can_fuse(block.norm, block.conv, images)
        support_first = block(images)
        assert torch.equal(support_first, modules(images))
    assert not torch.allclose(support_first, block(images))


def test_under_autocast_the_modules_do_it():
    block, _ = blocks()
    block, images = block.float(), last(5, 2, 6, 6).float()
    assert can_fuse(block.norm, block.conv, images)
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_fuse(block.norm, block.conv, images)
