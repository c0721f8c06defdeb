"""The benchmark runs and reports, at a size where speeds mean nothing."""

import math

import pytest
import torch

from jobs.bench import cuda_inner_loop, inner_loop, plain_loop
from pipeline.errors import BadInputError

TINY = (
    "data.name=glyphs",
    "data.num_train_tasks=1",
    "data.num_test_tasks=2",
    "task.num_ways=3",
    "task.batch_size=4",
    "model.num_filters=4",
    "inner.num_steps=2",
    "evaluation.num_steps=2",
)


def test_every_figure_is_measured():
    figures = inner_loop.run(repeats=1, device="cpu", accuracy=True, overrides=TINY)

    for name in ("inner_steps_per_s", "baseline_steps_per_s", "gflop_per_step", "bound_ms"):
        assert figures[name] > 0, name
    ratio = figures["inner_steps_per_s"] / figures["baseline_steps_per_s"]
    assert figures["ratio_to_baseline"] == pytest.approx(ratio)
    parts = ("augmentation_ms", "forward_backward_ms", "fold_ms", "update_ms", "rest_ms")
    assert sum(figures[part] for part in parts) == pytest.approx(figures["step_ms"])
    assert figures["cuda"].startswith("not run")
    for precision in ("float32", "bfloat16"):
        assert len(figures[f"accuracy_{precision}"]) == 3
        assert all(0 <= value <= 1 for value in figures[f"accuracy_{precision}"])
    assert math.isfinite(figures["accuracy_difference_standard_error"])


def test_operations_counted_are_those_of_the_convolutions_and_the_head():
    from jobs.bench.parts import part_figures

    experiment = inner_loop.bench_experiment((*TINY, "inner.precision=float32"))
    figures = part_figures(experiment, repeats=1)

    batch, filters, ways = 4, 4, 3
    first = batch * 28 * 28 * 9 * filters
    others = batch * (14 * 14 + 7 * 7 + 3 * 3) * 9 * filters * filters
    head = batch * filters * ways
    # Forward, and backward twice: for the weight and, but for the first layer, for the input.
    multiplications = 2 * first + 3 * others + 3 * head
    assert figures["gflop_per_step"] == pytest.approx(2 * multiplications / 1e9, rel=1e-6)


def test_plain_loop_learns():
    torch.manual_seed(0)
    drawings = inner_loop.load_dataset("glyphs").images[:60]
    take = plain_loop.plain_loop(drawings, 3, 20, 0.1, 8, loader_workers=0)

    losses, _ = take(40)

    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_outer_gradient_check_is_reproducible():
    experiment = inner_loop.bench_experiment(TINY)

    first = cuda_inner_loop.outer_gradient(experiment, "cpu")

    assert first.dtype is torch.float64
    assert first.norm() > 0
    assert torch.equal(first, cuda_inner_loop.outer_gradient(experiment, "cpu"))


def test_unknown_device_is_bad_input():
    with pytest.raises(BadInputError, match="device 'tpu'"):
        inner_loop.run(device="tpu")


@pytest.mark.gpu
def test_gpu_gives_the_outer_gradient_of_the_cpu():
    figures = cuda_inner_loop.cuda_figures(inner_loop.bench_experiment(TINY), 2, 1)

    assert figures["outer_gradient_relative_error"] < 1e-9
