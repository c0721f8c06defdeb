"""Outer optimizers against torch.optim, sharded, and restored."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from algorithms.outer import make_outer_optimizer

NAMES = ["sgd", "nesterov", "adam"]
REFERENCES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.8, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.3),
}


def gradients(size: int, num_steps: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randn(num_steps + 1, size, generator=generator, dtype=dtype)


def stepped(name: str, start: Tensor, grads: Tensor, cuts: list[int]) -> Tensor:
    """Where shards between `cuts` of the vector stand after the steps."""
    params = start.clone()
    edges = [0, *cuts, len(params)]
    for begin, end in itertools.pairwise(edges):
        optimizer = make_outer_optimizer(name, 0.3, 0.8, params[begin:end])
        for grad in grads:
            optimizer.step(grad[begin:end])
    return params


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_torch_optim(name):
    start, *grads = gradients(20, 6, torch.float64)
    params = torch.nn.Parameter(start.clone())
    reference = REFERENCES[name]([params])
    for grad in grads:
        params.grad = grad.clone()
        reference.step()
    ours = stepped(name, start, torch.stack(grads), [])
    torch.testing.assert_close(ours, params.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 300), data=st.data())
def test_sharding_is_bitwise_neutral(name, size, data):
    cuts = data.draw(st.lists(st.integers(1, size), max_size=4, unique=True).map(sorted))
    start, *grads = gradients(size, 4)
    cuts = [cut for cut in cuts if cut < size]
    whole = stepped(name, start, torch.stack(grads), [])
    assert torch.equal(stepped(name, start, torch.stack(grads), cuts), whole)


@pytest.mark.parametrize("name", NAMES)
def test_sharding_and_threads_are_bitwise_neutral_on_a_large_vector(name):
    start, *grads = gradients(113_237, 3)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(stepped(name, start, torch.stack(grads), []))
            results.append(stepped(name, start, torch.stack(grads), [13, 37_747, 99_999]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_before", [0, 3])
def test_restored_optimizer_goes_on_bitwise(name, num_before):
    start, *grads = gradients(50, 6)
    whole = stepped(name, start, torch.stack(grads), [])

    params = start.clone()
    first = make_outer_optimizer(name, 0.3, 0.8, params)
    for grad in grads[:num_before]:
        first.step(grad)
    saved = first.state_tensors()
    kept = copy.deepcopy(saved)
    first.step(grads[-1])

    params = stepped(name, start, torch.stack(grads)[:num_before], [])
    second = make_outer_optimizer(name, 0.3, 0.8, params)
    second.load_state_tensors(saved)
    for grad in grads[num_before:]:
        second.step(grad)
    assert torch.equal(params, whole)
    torch.testing.assert_close(saved, kept, rtol=0, atol=0)  # neither optimizer wrote to it
    assert all(isinstance(value, Tensor) for value in second.state_tensors().values())


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_left_as_it_was(name):
    optimizer = make_outer_optimizer(name, 0.3, 0.8, torch.zeros(3))
    grad = torch.ones(3)
    optimizer.step(grad)
    optimizer.step(grad)
    assert torch.equal(grad, torch.ones(3))


def test_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="unknown outer optimizer 'lion'; known: sgd"):
        make_outer_optimizer("lion", 0.1, 0.9, torch.zeros(1))
