"""AggregatorShard: exactly once (I1), in a fixed order (I2), averaged by element."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.aggregator import Accepted, AggregatorShard, Commit
from pipeline.config_sections import OuterConfig
from pipeline.messages import TaskSpec

SGD = OuterConfig(optimizer="sgd", lr=1.0)


def spec(index: int, attempt: int = 0, meta_step: int = 0) -> TaskSpec:
    return TaskSpec(meta_step, index, index, "train", meta_step, attempt)


def commit(step: int, accepted: dict[int, tuple[int, int]]) -> Commit:
    """An outer step of a whole meta-batch: index → attempt, parts."""
    tasks = {(step, index): Accepted(*task) for index, task in accepted.items()}
    return Commit(step, tasks, oldest_open=step + 1)


def shard(size: int = 3, offset: int = 0, outer: OuterConfig = SGD) -> AggregatorShard:
    return AggregatorShard(offset, torch.zeros(size), outer)


def array(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_outer_step_moves_against_the_mean_of_the_tasks():
    aggregator = shard()
    aggregator.fold(spec(0), 0, [(0, array(1, 2, 3))])
    aggregator.fold(spec(1), 0, [(0, array(3, 2, 1))])
    update = aggregator.commit(commit(0, {0: (0, 1), 1: (0, 1)}))
    assert aggregator.params.tolist() == [-2, -2, -2]
    assert update.version == aggregator.version == 1
    assert update.grad_square == update.step_square == 12


def test_segments_of_a_task_are_summed():
    aggregator = shard()
    for number in range(3):
        aggregator.fold(spec(0), number, [(0, array(1, 0, -1))])
    aggregator.commit(commit(0, {0: (0, 3)}))
    assert aggregator.params.tolist() == [-3, 0, 3]


def test_a_segment_that_arrives_twice_counts_once():
    aggregator = shard()
    for number in (0, 0, 1, 0, 1):
        aggregator.fold(spec(0), number, [(0, array(1, 1, 1))])
    aggregator.commit(commit(0, {0: (0, 2)}))
    assert aggregator.params.tolist() == [-2, -2, -2]


def test_partial_sums_of_a_dead_attempt_are_discarded():
    aggregator = shard()
    aggregator.fold(spec(0, attempt=0), 0, [(0, array(100, 100, 100))])
    aggregator.fold(spec(0, attempt=1), 0, [(0, array(1, 1, 1))])
    aggregator.fold(spec(0, attempt=0), 1, [(0, array(100, 100, 100))])  # late, from the dead
    aggregator.commit(commit(0, {0: (1, 1)}))
    assert aggregator.params.tolist() == [-1, -1, -1]


def test_an_outer_step_that_was_taken_cannot_be_taken_again():
    aggregator = shard()
    aggregator.fold(spec(0), 0, [(0, array(1, 1, 1))])
    aggregator.commit(commit(0, {0: (0, 1)}))
    assert aggregator.missing(commit(0, {0: (0, 1)})) == [(0, 0)]
    with pytest.raises(ValueError, match="outer step 0 cannot be committed at 1"):
        aggregator.commit(commit(0, {0: (0, 1)}))
    assert aggregator.params.tolist() == [-1, -1, -1]


def test_contributions_to_another_outer_step_are_ignored():
    aggregator = shard()
    aggregator.commit(commit(0, {}))
    aggregator.fold(spec(0, meta_step=0), 0, [(0, array(9, 9, 9))])
    aggregator.fold(spec(0, meta_step=2), 0, [(0, array(9, 9, 9))])
    aggregator.fold(spec(0, meta_step=1), 0, [(0, array(1, 1, 1))])
    aggregator.commit(commit(1, {0: (0, 1)}))
    assert aggregator.params.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("fault", ["lost slices", "gap", "never came"])
def test_an_incomplete_task_is_named_and_cannot_be_committed(fault):
    aggregator = shard()
    aggregator.fold(spec(0), 0, [(0, array(1, 1, 1))])
    if fault == "lost slices":
        aggregator.fold(spec(1), 0, None)
    elif fault == "gap":
        aggregator.fold(spec(1), 1, [(0, array(1, 1, 1))])
    accepted = {0: (0, 1), 1: (0, 1)}
    assert aggregator.missing(commit(0, accepted)) == [(0, 1)]
    with pytest.raises(ValueError, match="cannot be committed"):
        aggregator.commit(commit(0, accepted))
    assert aggregator.version == 0
    aggregator.fold(spec(1, attempt=1), 0, [(0, array(3, 3, 3))])
    aggregator.commit(commit(0, {0: (0, 1), 1: (1, 1)}))
    assert aggregator.params.tolist() == [-2, -2, -2]


def test_a_task_left_out_does_not_count():
    aggregator = shard()
    aggregator.fold(spec(0), 0, [(0, array(1, 1, 1))])
    aggregator.fold(spec(1), 0, [(0, array(float("nan"), 1, 1))])
    aggregator.commit(commit(0, {0: (0, 1)}))
    assert aggregator.params.tolist() == [-1, -1, -1]


def test_an_outer_step_without_tasks_changes_nothing():
    aggregator = shard(outer=OuterConfig(optimizer="adam", lr=1.0))
    aggregator.commit(commit(0, {}))
    assert aggregator.params.tolist() == [0, 0, 0]
    assert aggregator.version == 1


def test_an_element_is_averaged_over_the_tasks_that_hold_it():
    """Output layers of their own: the body is a mean, a head is its own task's alone."""
    aggregator = shard(size=3, offset=10)
    aggregator.fold(spec(0), 0, [(10, array(2)), (11, array(6))])
    aggregator.fold(spec(1), 0, [(10, array(4)), (12, array(8))])
    aggregator.commit(commit(0, {0: (0, 1), 1: (0, 1)}))
    assert aggregator.params.tolist() == [-3, -6, -8]


@settings(deadline=None, max_examples=50)
@given(
    order=st.permutations(range(5)),
    optimizer=st.sampled_from(["sgd", "nesterov", "adam", "delayed-nesterov"]),
    cut=st.integers(1, 6),
)
def test_neither_arrival_order_nor_shards_change_a_bit(order, optimizer, cut):
    outer = OuterConfig(optimizer=optimizer, lr=0.1)
    generator = np.random.default_rng(0)
    whole = shard(7, outer=outer)
    left, right = shard(cut, outer=outer), shard(7 - cut, offset=cut, outer=outer)
    for step in range(3):
        grads = generator.normal(size=(5, 7)).astype(np.float32)
        for index in range(5):
            whole.fold(spec(index, meta_step=step), 0, [(0, grads[index])])
        for index in order:
            left.fold(spec(index, meta_step=step), 0, [(0, grads[index, :cut])])
            right.fold(spec(index, meta_step=step), 0, [(cut, grads[index, cut:])])
        accepted = {index: (0, 1) for index in range(5)}
        for one in (whole, left, right):
            one.commit(commit(step, accepted))
    assert torch.equal(whole.params, torch.cat([left.params, right.params]))


def test_folding_does_not_write_to_the_shared_array():
    aggregator = shard()
    values = array(1, 1, 1)
    values.flags.writeable = False  # as what comes from the object store
    aggregator.fold(spec(0), 0, [(0, values)])
    aggregator.fold(spec(0), 1, [(0, array(1, 1, 1))])
    assert values.tolist() == [1, 1, 1]


def test_an_asynchronous_step_takes_some_tasks_and_leaves_the_others_open():
    aggregator = shard()
    for index, value in ((4, 1.0), (5, 2.0), (6, 4.0)):
        aggregator.fold(spec(index, meta_step=index // 4), 0, [(0, array(value, value, value))])
    tasks = {(1, 4): Accepted(0, 1), (1, 6): Accepted(0, 1)}
    aggregator.commit(Commit(0, tasks, oldest_open=1))
    assert aggregator.params.tolist() == [-2.5, -2.5, -2.5]
    aggregator.fold(spec(4, meta_step=1), 0, [(0, array(9, 9, 9))])  # late: it has counted
    aggregator.commit(Commit(1, {(1, 5): Accepted(0, 1)}, oldest_open=1))
    assert aggregator.params.tolist() == [-4.5, -4.5, -4.5]
    with pytest.raises(ValueError, match="cannot be committed"):
        aggregator.commit(Commit(2, {(1, 4): Accepted(0, 1)}, oldest_open=1))


def test_a_dropped_task_frees_its_memory_and_never_counts():
    aggregator = shard()
    aggregator.fold(spec(0), 0, [(0, array(9, 9, 9))])
    aggregator.fold(spec(1), 0, [(0, array(1, 1, 1))])
    aggregator.commit(Commit(0, {(0, 1): Accepted(0, 1)}, 0, frozenset({(0, 0)})))
    aggregator.fold(spec(0), 0, [(0, array(9, 9, 9))])
    assert aggregator.missing(Commit(1, {(0, 0): Accepted(0, 1)}, 0)) == [(0, 0)]
    assert aggregator.params.tolist() == [-1, -1, -1]


@settings(deadline=None, max_examples=50)
@given(weights=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4))
def test_a_stale_gradient_moves_less_by_its_weight(weights):
    """The mean over the tasks of weight times gradient, whatever the other weights are."""
    aggregator = shard(size=1)
    for index in range(len(weights)):
        aggregator.fold(spec(index), 0, [(0, array(index + 1.0))])
    tasks = {(0, i): Accepted(0, 1, weight) for i, weight in enumerate(weights)}
    aggregator.commit(Commit(0, tasks, oldest_open=1))
    wanted = -np.mean([weight * (i + 1) for i, weight in enumerate(weights)])
    np.testing.assert_allclose(aggregator.params.numpy(), [wanted], rtol=1e-5)
