"""Leap against a literal transcription of the paper's equation, in float64."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from algorithms.inner_loop import InnerLoop, InnerOptimizer
from algorithms.parameters import ParameterVector, capture_buffers, restore_buffers
from algorithms.trajectory.leap import Leap
from algorithms.trajectory.reptile import Reptile
from tests.fakes import Point, QuadraticTask, RegressionTask, small_network

ALL_OPTIONS = list(itertools.product([True, False], repeat=3))
NUM_STEPS = 12
LR = 0.05
EIGHTHS = st.integers(-24, 24).map(lambda n: n / 8)  # sums of which are exact


def transcribed_outer_gradient(
    thetas: list[Tensor],  # theta_0 .. theta_K
    losses: list[Tensor],  # f_0(theta_0) .. f_K(theta_K)
    gradients: list[Tensor],  # grad f_i(theta_i), i = 0 .. K-1
    norm: bool,
    loss: bool,
    stabilizer: bool,
) -> Tensor:
    """The sum over i of -(d_theta + d_f grad f_i) / ||(d_theta, d_f)||^(2-p), term by term."""
    total = torch.zeros_like(thetas[0])
    for i in range(len(gradients)):
        d_theta = thetas[i + 1] - thetas[i]
        d_f = 0.0
        if loss:
            d_f = float(losses[i + 1]) - float(losses[i])
            if stabilizer and d_f > 0:
                d_f = -d_f
        length = math.sqrt(sum(x * x for x in d_theta.tolist()) + d_f * d_f)
        p = 1 if norm else 2
        if length > 0:
            total = total - (d_theta + d_f * gradients[i]) / length ** (2 - p)
    return total


def plain_trajectory(
    model: nn.Module, task: RegressionTask, num_steps: int
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Train with torch.optim, without our vector or loop; return thetas, losses, gradients."""
    model.train()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=LR)
    thetas, losses, gradients = [], [], []
    for step in range(num_steps + 1):
        thetas.append(torch.cat([p.detach().flatten() for p in parameters]))
        loss = task.loss(model, step)
        losses.append(loss.detach())
        if step < num_steps:
            grads = torch.autograd.grad(loss, parameters)
            gradients.append(torch.cat([g.flatten() for g in grads]))
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad
            optimizer.step()
    return thetas, losses, gradients


def leap_gradient(batch_norm: bool, options: tuple[bool, bool, bool], pieces: list[int]) -> Tensor:
    model = small_network(batch_norm)
    vector = ParameterVector(model, dtype=torch.float64)
    fold = Leap(*options).start(vector.values)
    loop = InnerLoop(model, vector, RegressionTask(3, seed=1), InnerOptimizer(lr=LR), fold)
    total = torch.zeros_like(vector.values)
    for num_steps in pieces:
        loop.run(num_steps)
        total += fold.drain(vector.values)
    rest = loop.finish()
    assert rest is not None
    return total + rest


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("options", ALL_OPTIONS)
def test_outer_gradient_is_the_papers_equation(options, batch_norm):
    trajectory = plain_trajectory(small_network(batch_norm), RegressionTask(3, 1), NUM_STEPS)
    expected = transcribed_outer_gradient(*trajectory, *options)
    assert relative_error(leap_gradient(batch_norm, options, [NUM_STEPS]), expected) < 1e-10


@pytest.mark.parametrize("options", ALL_OPTIONS)
def test_the_trajectory_tells_the_options_apart(options):
    """The agreement above means something only where each option changes the answer."""
    losses = plain_trajectory(small_network(), RegressionTask(3, 1), NUM_STEPS)[1]
    rises = [float(b - a) > 0 for a, b in itertools.pairwise(losses)]
    assert any(rises)
    assert not all(rises)
    norm, loss, stabilizer = options
    ours = leap_gradient(False, options, [NUM_STEPS])
    assert (
        relative_error(leap_gradient(False, (not norm, loss, stabilizer), [NUM_STEPS]), ours) > 0.01
    )
    assert (
        relative_error(leap_gradient(False, (norm, not loss, stabilizer), [NUM_STEPS]), ours) > 0.01
    )
    if loss:
        other = leap_gradient(False, (norm, loss, not stabilizer), [NUM_STEPS])
        assert relative_error(other, ours) > 0.01


@pytest.mark.parametrize("options", ALL_OPTIONS)
@pytest.mark.parametrize("pieces", [[5, 7], [1, 1, 10], [0, 12], [1] * 12])
def test_drained_in_pieces_is_the_whole(options, pieces):
    whole = leap_gradient(True, options, [NUM_STEPS])
    assert relative_error(leap_gradient(True, options, pieces), whole) < 1e-12


@pytest.mark.parametrize("stabilizer", [True, False])
def test_energy_without_loss_is_reptile_with_factor_one(stabilizer):
    """-sum of d_theta telescopes to theta_0 - theta_K."""
    model = small_network(batch_norm=True)
    vector = ParameterVector(model, dtype=torch.float64)
    fold = Reptile().start(vector.values)
    loop = InnerLoop(model, vector, RegressionTask(3, 1), InnerOptimizer(lr=LR), fold)
    loop.run(NUM_STEPS)
    ours = leap_gradient(True, (False, False, stabilizer), [NUM_STEPS])
    assert relative_error(ours, loop.finish()) < 1e-12


def test_batch_norm_statistics_restart_and_repeat_the_task_bitwise():
    model = small_network(batch_norm=True)
    vector = ParameterVector(model, dtype=torch.float64)
    start, buffers = vector.values.clone(), capture_buffers(model)

    def once() -> tuple[Tensor | None, Tensor]:
        vector.load(start)
        restore_buffers(model, buffers)
        fold = Leap().start(vector.values)
        loop = InnerLoop(model, vector, RegressionTask(3, 1), InnerOptimizer(lr=LR), fold)
        loop.run(NUM_STEPS)
        return loop.finish(), model[1].running_mean.clone()

    (first_gradient, first_mean), (second_gradient, second_mean) = once(), once()
    assert torch.equal(first_gradient, second_gradient)
    assert torch.equal(first_mean, second_mean)
    assert not torch.equal(first_mean, buffers["1.running_mean"])


def test_pull_on_a_quadratic_is_what_a_hand_works_out():
    """From 4 towards 0 with rate 1/2: 4, 2, 1 with losses 8, 2, 1/2 and gradients 4, 2.

    d_theta = -2, -1 and d_f = -6, -3/2, so the pulls are 26/sqrt(40) and 4/sqrt(13/4).
    """
    model = Point([4.0])
    vector = ParameterVector(model, dtype=torch.float64)
    fold = Leap().start(vector.values)
    loop = InnerLoop(model, vector, QuadraticTask([0.0]), InnerOptimizer(lr=0.5), fold)
    loop.run(2)
    expected = torch.tensor([26 / math.sqrt(40) + 4 / math.sqrt(13 / 4)], dtype=torch.float64)
    torch.testing.assert_close(loop.finish(), expected, rtol=1e-14, atol=0)


def path_length(start: Tensor, target: list[float], lr: float, num_steps: int) -> float:
    """Length of the quadratic task's path on its loss surface, each point in closed form."""
    task = QuadraticTask(target)
    points = [task.position_after(start, i, lr) for i in range(num_steps + 1)]
    losses = [float((point - task.target).square().sum() / 2) for point in points]
    return sum(
        math.hypot(float((b - a).norm()), g - f)
        for (a, b), (f, g) in zip(
            itertools.pairwise(points), itertools.pairwise(losses), strict=True
        )
    )


def test_leap_descends_the_path_length_that_finite_differences_see():
    """The pull-forward gradient is no exact derivative, but points down the same slope."""
    start, target = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64), [0.3, 0.1, -0.2]
    vector = ParameterVector(model := Point(start.tolist()), dtype=torch.float64)
    fold = Leap().start(vector.values)
    loop = InnerLoop(model, vector, QuadraticTask(target), InnerOptimizer(lr=0.1), fold)
    loop.run(8)
    gradient = loop.finish()
    step = 1e-6
    slope = torch.tensor(
        [
            (
                path_length(start + step * e, target, 0.1, 8)
                - path_length(start - step * e, target, 0.1, 8)
            )
            / (2 * step)
            for e in torch.eye(3, dtype=torch.float64)
        ]
    )
    assert gradient is not None
    assert torch.cosine_similarity(gradient, slope.double(), dim=0) > 0.99


@pytest.mark.parametrize("options", ALL_OPTIONS)
def test_segment_of_length_zero_pulls_nowhere(options):
    vector = ParameterVector(model := Point([1.0, 2.0]), dtype=torch.float64)
    fold = Leap(*options).start(vector.values)
    loop = InnerLoop(model, vector, QuadraticTask([1.0, 2.0]), InnerOptimizer(), fold)
    loop.run(3)
    assert torch.equal(loop.finish(), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("size", [1e-40, 1e-38, 1e-30, 1e-10])
def test_shortest_segments_pull_finitely(size):
    fold = Leap().start(torch.zeros(2))
    fold.observe(torch.tensor(size), torch.ones(2), torch.zeros(2))
    pull = fold.finish(torch.tensor([size, 0.0]), torch.tensor(0.0))
    assert pull.isfinite().all()
    assert pull.norm() < 2


def test_no_step_pulls_nowhere():
    fold = Leap().start(torch.ones(3))
    assert torch.equal(fold.finish(torch.ones(3), torch.tensor(1.0)), torch.zeros(3))


@settings(deadline=None, max_examples=50)
@given(rise=st.floats(0.1, 10.0), norm=st.booleans())
def test_stabilizer_lets_rising_and_falling_losses_pull_alike(rise, norm):
    pulls = []
    for loss_after in (1.0 + rise, 1.0 - rise):
        fold = Leap(norm=norm).start(torch.zeros(2, dtype=torch.float64))
        zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
        fold.observe(torch.tensor(1.0, dtype=torch.float64), one, zero)
        pulls.append(fold.finish(one / 4, torch.tensor(loss_after, dtype=torch.float64)))
    torch.testing.assert_close(*pulls)


@settings(deadline=None, max_examples=50)
@given(
    shift=EIGHTHS,
    values=st.lists(EIGHTHS, min_size=6, max_size=6),
    options=st.sampled_from(ALL_OPTIONS),
)
def test_shifting_all_parameters_leaves_the_pull_as_it_was(shift, values, options):
    points = torch.tensor(values, dtype=torch.float64).view(3, 2)
    pulls = []
    for offset in (0.0, shift):
        fold = Leap(*options).start(points[0] + offset)
        for i in range(2):
            fold.observe(points[i].sum(), points[i] * 2 + 1, points[i] + offset)
        pulls.append(fold.finish(points[2] + offset, points[2].sum()))
    assert torch.equal(*pulls)


@settings(deadline=None, max_examples=50)
@given(values=st.lists(EIGHTHS, min_size=8, max_size=8), stabilizer=st.booleans())
def test_without_loss_term_each_segment_pulls_with_length_at_most_one(values, stabilizer):
    points = torch.tensor(values, dtype=torch.float64).view(4, 2)
    fold = Leap(loss=False, stabilizer=stabilizer).start(points[0])
    for point in points[:-1]:
        fold.observe(torch.tensor(torch.nan), torch.full((2,), torch.nan), point)
    pull = fold.finish(points[-1], None)
    assert torch.isfinite(pull).all()
    assert pull.norm() <= 3 + 1e-9


def test_loss_at_the_end_is_asked_for_only_where_it_counts():
    assert Leap().start(torch.zeros(1)).needs_final_loss
    assert not Leap(loss=False).start(torch.zeros(1)).needs_final_loss
    with pytest.raises(ValueError, match="loss at the last parameters"):
        Leap().start(torch.zeros(1)).finish(torch.zeros(1), None)


@pytest.mark.parametrize("name", ["norm", "loss", "stabilizer"])
def test_option_that_is_no_boolean_is_refused(name):
    with pytest.raises(TypeError, match=f"{name}: expected true or false, got 'no'"):
        Leap(**{name: "no"})
