"""The inner loop against torch.optim, resumed, and what it records."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from algorithms import TRAJECTORY_LEARNERS
from algorithms.inner_loop import InnerLoop, InnerOptimizer
from algorithms.parameters import ParameterVector
from tests.fakes import Point, QuadraticTask, RegressionTask, small_network

OPTIMIZERS = {
    "sgd": (InnerOptimizer("sgd", lr=0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
    "momentum": (
        InnerOptimizer("sgd", lr=0.02, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    ),
    "adam": (InnerOptimizer("adam", lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
    "rmsprop": (
        InnerOptimizer("rmsprop", lr=0.003, alpha=0.9, eps=0.02),
        lambda p: torch.optim.RMSprop(p, lr=0.003, alpha=0.9, eps=0.02),
    ),
}
MAX_GRAD_NORM = 3.0  # some of the gradients below are longer, some shorter


def make_loop(
    optimizer: InnerOptimizer,
    learner: str | None = None,
    dtype: torch.dtype = torch.float64,
    precision: torch.dtype = torch.float32,
    batch_norm: bool = True,
) -> InnerLoop:
    model = small_network(batch_norm)
    vector = ParameterVector(model, dtype=dtype)
    fold = None if learner is None else TRAJECTORY_LEARNERS[learner]().start(vector.values)
    return InnerLoop(model, vector, RegressionTask(3, 1), optimizer, fold, precision)


@pytest.mark.parametrize("max_grad_norm", [0.0, MAX_GRAD_NORM])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_and_records_are_those_of_torch_optim(name, max_grad_norm):
    settings, make_optimizer = OPTIMIZERS[name]
    settings = dataclasses.replace(settings, max_grad_norm=max_grad_norm)
    # Without batch-norm: a bias ahead of it has a gradient of pure rounding, which Adam blows up.
    model, task = small_network(), RegressionTask(3, 1)
    optimizer = make_optimizer(model.parameters())
    expected, path_length, before = [], 0.0, flatten(model)
    for step in range(30):
        optimizer.zero_grad()
        loss = task.loss(model, step)
        loss.backward()
        grad_norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
        if max_grad_norm:
            nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        path_length += float((flatten(model) - before).norm())
        before = flatten(model)
        error = float(task.training_metrics()["error"])
        expected.append([float(loss.detach()), error, grad_norm, path_length])

    norms = [row[2] for row in expected]
    assert min(norms) < MAX_GRAD_NORM < max(norms)
    loop = make_loop(settings, batch_norm=False)
    records = loop.run(30)
    torch.testing.assert_close(loop.vector.values, before, rtol=1e-12, atol=1e-12)
    ours = [records.loss, records.error, records.grad_norm, records.path_length]
    torch.testing.assert_close(torch.stack(ours, dim=1), torch.tensor(expected))
    assert {column.dtype for column in ours} == {torch.float32}


def flatten(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("learner", sorted(TRAJECTORY_LEARNERS))
def test_resumed_in_mid_task_goes_on_bitwise(name, learner):
    settings = OPTIMIZERS[name][0]
    whole = make_loop(settings, learner, torch.float32)
    whole.run(5)
    saved = copy.deepcopy(whole.state_dict())
    rest = whole.run(6)

    resumed = make_loop(settings, learner, torch.float32)
    resumed.run(2)  # a used loop must forget what it did
    resumed.load_state_dict(saved)
    assert resumed.step == 5
    again = resumed.run(6)
    for name_of_figure in ("loss", "error", "grad_norm", "path_length"):
        assert torch.equal(getattr(again, name_of_figure), getattr(rest, name_of_figure))
    assert torch.equal(resumed.finish(), whole.finish())
    assert torch.equal(resumed.vector.values, whole.vector.values)
    for one, other in zip(resumed.model.buffers(), whole.model.buffers(), strict=True):
        assert torch.equal(one, other)


def test_the_fold_sees_gradients_as_they_were_before_clipping():
    vector = ParameterVector(model := Point([3.0, 4.0]), dtype=torch.float64)
    fold = TRAJECTORY_LEARNERS["fomaml"]().start(vector.values)
    optimizer = InnerOptimizer(lr=0.1, max_grad_norm=0.5)
    loop = InnerLoop(model, vector, QuadraticTask([0.0, 0.0]), optimizer, fold)
    assert float(loop.run(1).grad_norm) == pytest.approx(5.0)
    torch.testing.assert_close(fold.finish(vector.values, None), torch.tensor([3.0, 4.0]).double())
    moved = torch.tensor([3.0, 4.0]).double() - vector.values
    assert float(moved.norm()) == pytest.approx(0.1 * 0.5, rel=1e-5)


def test_saved_state_stays_as_it_was_while_the_loop_goes_on():
    loop = make_loop(OPTIMIZERS["adam"][0], "leap")
    loop.run(2)
    saved = loop.state_dict()
    kept = copy.deepcopy(saved)
    loop.run(2)
    torch.testing.assert_close(saved, kept, rtol=0, atol=0)


def test_segment_lengths_do_not_change_the_training():
    whole, pieces = make_loop(InnerOptimizer(), "leap"), make_loop(InnerOptimizer(), "leap")
    losses = whole.run(7).loss
    assert torch.equal(torch.cat([pieces.run(n).loss for n in (3, 0, 4)]), losses)
    assert torch.equal(pieces.finish(), whole.finish())


@pytest.mark.parametrize("learner", [None, *sorted(TRAJECTORY_LEARNERS)])
def test_the_fold_leaves_no_trace_in_the_adapted_model(learner):
    watched, alone = make_loop(InnerOptimizer(), learner), make_loop(InnerOptimizer())
    watched.run(5)
    watched.finish()
    alone.run(5)
    for one, other in zip(
        watched.model.state_dict().values(), alone.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


def test_final_loss_is_taken_on_the_minibatch_of_the_next_step():
    vector = ParameterVector(model := Point([1.0]), dtype=torch.float64)
    fold = TRAJECTORY_LEARNERS["leap"]().start(vector.values)
    loop = InnerLoop(model, vector, task := QuadraticTask([0.0]), InnerOptimizer(), fold)
    loop.run(3)
    loop.finish()
    assert task.steps_seen == [0, 1, 2, 3]


def test_error_is_nan_where_the_task_reports_none():
    vector = ParameterVector(model := Point([1.0]), dtype=torch.float64)
    records = InnerLoop(model, vector, QuadraticTask([0.0]), InnerOptimizer()).run(3)
    assert records.error.isnan().all()
    assert records.loss.isfinite().all()


def test_divergence_is_recorded_and_not_hidden():
    vector = ParameterVector(model := Point([1.0]))
    fold = TRAJECTORY_LEARNERS["leap"]().start(vector.values)
    task = QuadraticTask([0.0], curvature=1e30)
    loop = InnerLoop(model, vector, task, InnerOptimizer(), fold)
    records = loop.run(4)
    assert not records.loss.isfinite().all()
    assert not loop.finish().isfinite().all()


def test_path_length_keeps_short_steps_beside_a_long_path():
    vector = ParameterVector(model := Point([1.0]))
    loop = InnerLoop(model, vector, QuadraticTask([0.0]), InnerOptimizer(lr=1e-3))
    loop.load_state_dict(loop.state_dict() | {"path_length": torch.tensor(1e6)})
    loop.run(100)
    walked = loop.state_dict()["path_length"] - 1e6
    assert float(walked) == pytest.approx(1 - 0.999**100, rel=1e-4)


def test_bfloat16_trains_float32_parameters_close_to_float32():
    exact = make_loop(InnerOptimizer(lr=0.01), "leap", torch.float32)
    mixed = make_loop(InnerOptimizer(lr=0.01), "leap", torch.float32, torch.bfloat16)
    seen: list[torch.dtype] = []
    for loop in (exact, mixed):
        loop.model[0].register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    losses, mixed_losses = exact.run(10).loss, mixed.run(10).loss
    assert seen == [torch.float32] * 10 + [torch.bfloat16] * 10
    assert mixed.vector.values.dtype is torch.float32
    torch.testing.assert_close(mixed_losses, losses, rtol=0.05, atol=0.05)
    assert torch.cosine_similarity(mixed.finish(), exact.finish(), dim=0) > 0.99


def test_gradients_that_do_not_gather_in_the_vector_are_noticed():
    loop = make_loop(InnerOptimizer())
    loop.run(1)
    loop.model.zero_grad(set_to_none=True)
    with pytest.raises(RuntimeError, match="no views into the vector"):
        loop.run(1)


def test_model_is_put_in_training_mode():
    loop = make_loop(InnerOptimizer())
    loop.model.eval()
    loop.run(1)
    assert loop.model.training


def test_no_random_number_is_drawn():
    state = torch.get_rng_state()
    make_loop(InnerOptimizer("adam"), "leap").run(3)
    untouched = torch.get_rng_state()
    torch.set_rng_state(state)
    small_network(batch_norm=True)  # the construction of the network draws, the loop does not
    assert torch.equal(torch.get_rng_state(), untouched)


@pytest.mark.parametrize(
    ("settings", "precision", "message"),
    [
        (InnerOptimizer("adagrad"), torch.float32, "unknown inner optimizer 'adagrad'"),  # type: ignore[arg-type]
        (InnerOptimizer(max_grad_norm=-1.0), torch.float32, "max_grad_norm: expected a positive"),
        (InnerOptimizer(), torch.float16, "expected float32 or bfloat16"),
    ],
)
def test_unknown_settings_are_refused(settings, precision, message):
    with pytest.raises(ValueError, match=message):
        make_loop(settings, precision=precision)


class ReportsEverySecondStep(QuadraticTask):
    """Reports its step's number, which float32 could not tell from the next."""

    def training_metrics(self):
        step = self.steps_seen[-1]
        number = torch.tensor(2**24 + step)
        return {"counted": number} if step % 2 else {"counted": number, "seldom": number}


def test_figures_of_the_task_are_on_record_exactly_and_nan_where_there_are_none():
    vector = ParameterVector(model := Point([1.0]), dtype=torch.float64)
    loop = InnerLoop(model, vector, ReportsEverySecondStep([0.0]), InnerOptimizer())
    figures = loop.run(4).figures
    assert (figures["counted"] - 2**24).tolist() == [0, 1, 2, 3]
    assert figures["seldom"].isnan().tolist() == [False, True, False, True]
