"""Delayed Nesterov against a literal transcription of Algorithm 3 of arXiv:2401.09135."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.outer import make_outer_optimizer


def literal(params, grads, lr, beta, delay, activation):
    """Algorithm 3, line by line: t from 0, the buffer Δ is kept over N steps."""
    theta, m, buffer = params.clone(), torch.zeros_like(params), torch.zeros_like(params)
    n, c = delay, activation
    for t, g in enumerate(grads):
        buffer = buffer + g
        if (t + 1) % n == 0:
            m = beta * m + buffer / n
            theta = theta - lr * ((1 - c * n + c) * beta * m + g / n)
            buffer = torch.zeros_like(params)
        else:
            theta = theta - lr * (c * beta * m + g / n)
    return theta


def draw(seed: int, count: int, size: int = 5):
    generator = torch.Generator().manual_seed(seed)
    params = torch.randn(size, generator=generator, dtype=torch.float64)
    return params, torch.randn(count, size, generator=generator, dtype=torch.float64)


def optimizer(params, beta=0.9, delay=4, activation=0.0, lr=0.3):
    return make_outer_optimizer(
        "delayed-nesterov", lr, beta, params, delay=delay, activation=activation
    )


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1000),
    beta=st.floats(0, 0.99),
    delay=st.integers(1, 6),
    share=st.floats(0, 1),
    count=st.integers(1, 20),
)
def test_it_is_the_papers_algorithm(seed, beta, delay, share, count):
    params, grads = draw(seed, count)
    wanted = literal(params, grads, 0.3, beta, delay, share / delay)
    one = optimizer(params, beta, delay, share / delay)
    for grad in grads:
        one.step(grad.clone())
    torch.testing.assert_close(params, wanted, rtol=1e-12, atol=1e-12)


def test_without_delay_it_is_nesterov():
    params, grads = draw(3, 10)
    ours, theirs = params.clone(), params.clone()
    delayed = optimizer(ours, delay=1)
    plain = make_outer_optimizer("nesterov", 0.3, 0.9, theirs)
    for grad in grads:
        delayed.step(grad.clone())
        plain.step(grad.clone())
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stop", [1, 3, 4, 6, 8])
def test_it_goes_on_bitwise_in_the_middle_of_a_delay(stop):
    params, grads = draw(1, 12)
    whole, parts = params.clone().float(), params.clone().float()
    first = optimizer(whole, activation=0.1)
    for grad in grads.float():
        first.step(grad.clone())
    before = optimizer(parts, activation=0.1)
    for grad in grads[:stop].float():
        before.step(grad.clone())
    after = optimizer(parts, activation=0.1)
    after.load_state_tensors(before.state_tensors())
    for grad in grads[stop:].float():
        after.step(grad.clone())
    assert torch.equal(whole, parts)


def test_shards_take_bitwise_the_steps_of_the_whole():
    params, grads = draw(2, 9, size=7)
    whole = params.float()
    left, right = whole[:3].clone(), whole[3:].clone()
    one = optimizer(whole, activation=0.2)
    shards = [
        (optimizer(left, activation=0.2), slice(0, 3)),
        (optimizer(right, activation=0.2), slice(3, 7)),
    ]
    for grad in grads.float():
        one.step(grad.clone())
        for shard, part in shards:
            shard.step(grad[part].clone())
    assert torch.equal(whole, torch.cat([left, right]))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"delay": 0}, "delay: expected at least 1"), ({"activation": 0.26}, r"in \[0, 1/4\]")],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        optimizer(torch.zeros(2), **options)
