"""What every trajectory fold promises, and what Reptile, FOMAML and finetuning are."""

import copy
import gc

import pytest
import torch
from torch import Tensor, nn

from algorithms import TRAJECTORY_LEARNERS
from algorithms.inner_loop import InnerLoop, InnerOptimizer
from algorithms.parameters import ParameterVector
from tests.fakes import Point, QuadraticTask, RegressionTask, small_network

NAMES = sorted(TRAJECTORY_LEARNERS)


def start_loop(name: str, optimizer: InnerOptimizer, seed: int = 1) -> InnerLoop:
    model = small_network(batch_norm=True)
    vector = ParameterVector(model, dtype=torch.float64)
    fold = TRAJECTORY_LEARNERS[name]().start(vector.values)
    return InnerLoop(model, vector, RegressionTask(3, seed), optimizer, fold)


@pytest.mark.parametrize("name", NAMES)
def test_drained_in_pieces_is_the_whole(name):
    whole = start_loop(name, InnerOptimizer(lr=0.05))
    whole.run(9)
    pieces = start_loop(name, InnerOptimizer(lr=0.05))
    total = torch.zeros_like(pieces.vector.values)
    for num_steps in (1, 4, 4):
        pieces.run(num_steps)
        total += pieces.fold.drain(pieces.vector.values)
    torch.testing.assert_close(total + pieces.finish(), whole.finish(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_state_restored_in_a_new_fold_goes_on_bitwise(name):
    generator = torch.Generator().manual_seed(0)
    points, grads = torch.randn(2, 7, 4, generator=generator)
    fold = TRAJECTORY_LEARNERS[name]().start(points[0])
    for i in range(3):
        fold.observe(points[i].sum(), grads[i], points[i])
    other = TRAJECTORY_LEARNERS[name]().start(torch.zeros(4))
    other.load_state_dict(copy.deepcopy(fold.state_dict()))
    answers = []
    for each in (fold, other):
        for i in range(3, 6):
            each.observe(points[i].sum(), grads[i], points[i])
        answers.append(each.finish(points[6], points[6].sum()))
    assert torch.equal(*answers)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_fold_returns_and_saves_shares_no_memory_with_the_loop(name):
    values, grads = torch.ones(3), torch.ones(3)
    fold = TRAJECTORY_LEARNERS[name]().start(values)
    fold.observe(torch.tensor(1.0), grads, values)
    saved, drained = fold.state_dict(), fold.drain(values)
    kept = copy.deepcopy((saved, drained))
    values.fill_(9.0)
    grads.fill_(9.0)
    fold.observe(torch.tensor(2.0), grads, values)
    torch.testing.assert_close((saved, drained), kept, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_fold_copies_what_it_needs_of_the_live_buffers(name):
    points, grads = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    live_point, live_grad, live_loss = torch.zeros(5), torch.zeros(5), torch.zeros(())
    given_live, given_copies = (TRAJECTORY_LEARNERS[name]().start(points[0]) for _ in range(2))
    for point, grad in zip(points[:3], grads[:3], strict=True):
        live_point.copy_(point)
        live_grad.copy_(grad)
        live_loss.copy_(point.sum())
        given_live.observe(live_loss, live_grad, live_point)
        given_copies.observe(point.sum(), grad.clone(), point.clone())
        for buffer in (live_point, live_grad, live_loss):
            buffer.fill_(torch.nan)
    answers = [each.finish(points[3], points[3].sum()) for each in (given_live, given_copies)]
    assert torch.equal(*answers)


def live_tensor_bytes() -> int:
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter)]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in tensors}
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("name", NAMES)
def test_memory_does_not_grow_with_the_number_of_steps(name):
    loop = start_loop(name, InnerOptimizer(lr=0.01))
    loop.run(1)
    after_one = live_tensor_bytes()
    loop.run(300)
    assert live_tensor_bytes() == after_one


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_a_few_vectors(name):
    size = 10_000
    before = live_tensor_bytes()
    fold = TRAJECTORY_LEARNERS[name]().start(torch.zeros(size))
    num_vectors = 3 if name == "leap" else 1
    assert live_tensor_bytes() - before <= num_vectors * size * 4 + 64
    assert fold.needs_final_loss == (name == "leap")


@pytest.mark.parametrize("name", ["reptile", "finetune"])
def test_displacement_on_a_quadratic_is_known_in_closed_form(name):
    start, task = torch.tensor([3.0, -1.0], dtype=torch.float64), QuadraticTask([0.5, 0.5])
    vector = ParameterVector(model := Point(start.tolist()), dtype=torch.float64)
    fold = TRAJECTORY_LEARNERS[name]().start(vector.values)
    loop = InnerLoop(model, vector, task, InnerOptimizer(lr=0.3), fold)
    loop.run(6)
    expected = start - task.position_after(start, 6, lr=0.3)
    torch.testing.assert_close(loop.finish(), expected, rtol=1e-13, atol=0)
    assert task.steps_seen == list(range(6))  # no extra forward pass that nobody asked for


def test_fomaml_is_autograds_gradient_of_the_last_minibatch():
    """Differentiate the query loss at phi, with phi's own dependence on theta cut off."""
    num_steps, lr = 6, 0.05
    model, task = small_network(), RegressionTask(3, seed=2)
    phi = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}

    def loss(step: int) -> Tensor:
        inputs, wanted = task.minibatch(step)
        answers = torch.func.functional_call(model, phi, inputs)
        return (answers.squeeze(1) - wanted).square().mean()

    for step in range(num_steps - 1):
        grads = torch.autograd.grad(loss(step), list(phi.values()))
        phi = {
            name: (p - lr * g).detach().requires_grad_()
            for (name, p), g in zip(phi.items(), grads, strict=True)
        }
    query_grads = torch.autograd.grad(loss(num_steps - 1), list(phi.values()))
    expected = torch.cat([grad.flatten() for grad in query_grads])

    vector = ParameterVector(model, dtype=torch.float64)
    fold = TRAJECTORY_LEARNERS["fomaml"]().start(vector.values)
    loop = InnerLoop(model, vector, RegressionTask(3, seed=2), InnerOptimizer(lr=lr), fold)
    loop.run(num_steps)
    torch.testing.assert_close(loop.finish(), expected, rtol=1e-12, atol=1e-13)


def test_finetune_with_one_step_is_joint_sgd():
    """K = 1 and outer SGD of rate 1: the mean of the tasks' gradients, times the inner rate."""
    model, tasks, lr = small_network(), [RegressionTask(3, seed) for seed in range(3)], 0.05
    joint = torch.stack([task.loss(model, step=0) for task in tasks]).mean()
    grads = torch.autograd.grad(joint, list(model.parameters()))
    expected = torch.cat(
        [(p - lr * g).flatten() for p, g in zip(model.parameters(), grads, strict=True)]
    ).detach()

    vector = ParameterVector(model, dtype=torch.float64)
    start, total = vector.values.clone(), torch.zeros_like(vector.values)
    for task in tasks:
        vector.load(start)
        fold = TRAJECTORY_LEARNERS["finetune"]().start(vector.values)
        loop = InnerLoop(model, vector, task, InnerOptimizer(lr=lr), fold)
        loop.run(1)
        total += loop.finish()
    torch.testing.assert_close(start - total / len(tasks), expected, rtol=1e-12, atol=1e-14)


def test_only_finetuning_gives_each_task_a_head_of_its_own():
    assert [name for name in NAMES if TRAJECTORY_LEARNERS[name]().multi_head] == ["finetune"]
