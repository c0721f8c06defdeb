"""The flat vector: a module's parameters are views of it, and stay so."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from algorithms.baselines import initial_parameters
from algorithms.models.conv import ConvNet
from algorithms.parameters import ParameterVector, capture_buffers, restore_buffers


def small_conv() -> ConvNet:
    return ConvNet(num_classes=3, image_size=8, num_filters=4, num_blocks=2)


def test_values_are_the_modules_and_training_moves_them():
    model = small_conv()
    expected = torch.cat([p.detach().clone().flatten() for p in model.parameters()])
    vector = ParameterVector(model)
    assert torch.equal(vector.values, expected)
    model(torch.rand(2, 1, 8, 8)).sum().backward()
    assert torch.equal(vector.grads, torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    torch.testing.assert_close(vector.values, expected - 0.1 * vector.grads)
    assert vector.is_bound(model)


def test_layout_covers_the_vector_in_order():
    vector = ParameterVector(model := small_conv())
    assert [slot.name for slot in vector.layout] == [name for name, _ in model.named_parameters()]
    ends = [0] + [slot.end for slot in vector.layout]
    assert ends[:-1] == [slot.offset for slot in vector.layout]
    assert ends[-1] == vector.size == len(vector.values) == len(vector.grads)


def test_layout_does_not_depend_on_the_memory_format():
    plain, channels_last = small_conv(), small_conv()
    channels_last.load_state_dict(plain.state_dict())
    channels_last.to(memory_format=torch.channels_last)
    assert torch.equal(ParameterVector(plain).values, ParameterVector(channels_last).values)


def test_gradients_gather_in_place_over_channels_last_activations():
    vector = ParameterVector(model := small_conv())
    images = torch.rand(2, 1, 8, 8).to(memory_format=torch.channels_last)
    for passes in (1, 2):
        model(images).sum().backward()
        assert vector.is_bound(model)
        if passes == 1:
            once = vector.grads.clone()
    torch.testing.assert_close(vector.grads, 2 * once, rtol=1e-4, atol=1e-4)


def test_another_module_bound_to_the_vector_takes_its_values():
    vector, other = ParameterVector(small_conv()), small_conv().double()
    vector.bind(other)
    other_values = torch.cat([p.detach().flatten() for p in other.parameters()])
    assert torch.equal(other_values, vector.values)
    assert other.encoder[0].norm.running_mean.dtype is torch.float32
    other(torch.rand(2, 1, 8, 8)).sum().backward()
    assert vector.grads.abs().sum() > 0


def test_module_that_does_not_fit_is_refused_and_left_alone():
    vector = ParameterVector(small_conv())
    other = ConvNet(num_classes=4, image_size=8, num_filters=4, num_blocks=2)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(
        ValueError, match=r"expected head.weight \(3, 16\), got head.weight \(4, 16"
    ):
        vector.bind(other)
    torch.testing.assert_close(other.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(ValueError, match="has no parameters"):
        ParameterVector(nn.ReLU())


def test_load_takes_tensors_and_read_only_arrays_of_the_right_length():
    vector = ParameterVector(model := small_conv())
    array = np.arange(vector.size, dtype=np.float32)
    array.setflags(write=False)
    vector.load(array)
    assert vector.values.tolist() == array.tolist()
    assert model.head.bias[-1].item() == vector.size - 1
    vector.values.add_(1)
    assert array[0] == 0
    vector.load(torch.zeros(vector.size, dtype=torch.float64))
    assert not vector.values.any()
    assert vector.is_bound(model)
    with pytest.raises(ValueError, match=f"expected {vector.size} parameters, got shape"):
        vector.load(array[:-1])


def test_head_offset_is_where_the_output_layer_begins():
    vector = ParameterVector(model := small_conv())
    head_size = sum(p.numel() for p in model.head.parameters())
    assert vector.head_offset() == vector.size - head_size
    with pytest.raises(ValueError, match=r"no parameter's name begins with 'policy\.'"):
        vector.head_offset("policy.")
    with pytest.raises(ValueError, match="must come last"):
        vector.head_offset("encoder.0.")


def test_unbound_is_noticed():
    vector = ParameterVector(model := small_conv())
    model.zero_grad(set_to_none=True)
    assert not vector.is_bound(model)
    vector.bind(model)
    assert vector.is_bound(model)
    model.head.bias.data = torch.zeros(3)
    assert not vector.is_bound(model)


def test_gradients_that_gather_elsewhere_are_refused_not_read_as_zeros():
    vector = ParameterVector(model := small_conv())
    for clear in (model.zero_grad, torch.optim.SGD(model.parameters(), lr=0.1).zero_grad):
        clear()
        model(torch.rand(2, 1, 8, 8)).sum().backward()
        with pytest.raises(RuntimeError, match=r"zero_grad\(set_to_none=False\)"):
            _ = vector.grads
        vector.bind(model)
        assert not vector.grads.any()
        model(torch.rand(2, 1, 8, 8)).sum().backward()
        assert vector.grads.any()
        clear(set_to_none=False)
        assert not vector.grads.any()
    model.double()
    with pytest.raises(RuntimeError, match="move the module before the vector is made"):
        _ = vector.grads


def test_empty_parameters_are_bound_like_any_other():
    model = nn.Linear(2, 2)
    model.none = nn.Parameter(torch.empty(0))
    vector = ParameterVector(model)
    assert vector.is_bound(model)
    assert vector.grads.shape == (6,)


def test_buffers_restored_are_those_captured():
    model = small_conv()
    captured = capture_buffers(model)
    kept = copy.deepcopy(captured)
    model(torch.rand(4, 1, 8, 8) + 3)
    assert not torch.equal(model.encoder[0].norm.running_mean, kept["encoder.0.norm.running_mean"])
    restore_buffers(model, captured)
    torch.testing.assert_close(dict(model.named_buffers()), kept, rtol=0, atol=0)
    with pytest.raises(KeyError):
        restore_buffers(model, {})


def test_initial_parameters_depend_on_the_seed_alone():
    model = small_conv()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first = initial_parameters(model, seed=5)
    torch.manual_seed(99)
    vector = ParameterVector(other := small_conv())
    other.double()
    assert torch.equal(initial_parameters(other, seed=5), first)
    assert first.dtype is torch.float32
    assert first.shape == (vector.size,)
    assert not torch.equal(initial_parameters(model, seed=6), first)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    torch.set_rng_state(state)
    initial_parameters(model, seed=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_initial_parameters_are_drawn_as_torch_draws_them():
    layer = nn.Linear(400, 400)
    drawn = initial_parameters(layer, seed=0)
    bound = 1 / 400**0.5
    assert drawn.abs().max() <= bound
    assert float(drawn.std()) == pytest.approx(bound / 3**0.5, rel=0.02)


def test_parameters_that_nothing_draws_are_refused():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(ValueError, match="Bare has parameters but no reset_parameters"):
        initial_parameters(nn.Sequential(nn.Linear(1, 1), Bare()), seed=0)
