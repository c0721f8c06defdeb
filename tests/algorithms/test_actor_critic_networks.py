"""Atari encoders and actor-critic networks: sizes of the papers, inputs, heads, how they start."""

import copy
import math

import pytest
import torch
from ale_py.vector_env import AtariVectorEnv
from torch import nn

from algorithms.baselines import initial_parameters
from algorithms.models.actor_critic import ActorCritic
from algorithms.models.atari import NatureEncoder, SmallAtariEncoder
from algorithms.models.perceptron import TanhEncoder
from algorithms.parameters import ParameterVector

ENCODERS = [SmallAtariEncoder, NatureEncoder]


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def images(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("encoder", "convolutions", "linear"),
    [
        (SmallAtariEncoder, 4 * 8 * 8 * 16 + 16 + 16 * 4 * 4 * 32 + 32, (32 * 9 * 9 + 1) * 256),
        (NatureEncoder, 8_224 + 32_832 + 36_928, (64 * 7 * 7 + 1) * 512),
    ],
)
def test_encoders_have_the_parameters_of_the_papers(encoder, convolutions, linear):
    assert count(encoder(in_channels=4, image_size=84)) == convolutions + linear


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("in_channels", [1, 3, 12])
def test_images_of_bytes_are_scaled_to_fractions_and_memory_formats_agree(encoder, in_channels):
    torch.manual_seed(0)
    model = encoder(in_channels, image_size=50).double()
    pixels = images(3, in_channels, 50, 50)
    features = model(pixels)
    assert features.shape == (3, *model.feature_shape)
    layers = [layer for conv in model.convs for layer in (conv, nn.ReLU())]
    plain = nn.Sequential(*layers, nn.Flatten(), model.linear, nn.ReLU())
    for same in (pixels.double() / 255, pixels.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(model(same), features)
    torch.testing.assert_close(plain(pixels.double() / 255), features)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_on_bytes_are_those_on_fractions(memory_format):
    torch.manual_seed(0)
    model = SmallAtariEncoder(in_channels=3, image_size=50).double()
    pixels = images(2, 3, 50, 50).contiguous(memory_format=memory_format)

    def gradients(inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(model(inputs).square().sum(), tuple(model.parameters()))

    torch.testing.assert_close(gradients(pixels), gradients(pixels.double() / 255))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_channels_of_a_stack_of_colour_frames_keep_their_places(memory_format):
    """A size that needs no cut takes the words of the images as they lie."""
    torch.manual_seed(0)
    model = NatureEncoder(in_channels=6, image_size=44).double()
    pixels = images(2, 6, 44, 44).contiguous(memory_format=memory_format)

    torch.testing.assert_close(model(pixels), model(pixels.double() / 255))


@pytest.mark.parametrize(("encoder", "smallest"), [(SmallAtariEncoder, 20), (NatureEncoder, 36)])
def test_images_may_be_as_small_as_the_convolutions_allow(encoder, smallest):
    assert encoder(1, smallest)(images(2, 1, smallest, smallest)).shape[0] == 2
    with pytest.raises(
        ValueError, match=f"image_size={smallest - 1}: expected at least {smallest}"
    ):
        encoder(1, smallest - 1)
    with pytest.raises(ValueError, match="in_channels=0: expected at least 1"):
        encoder(0)


@pytest.mark.parametrize(
    ("layout", "in_channels", "to_images"),
    [
        ({}, 4, lambda frames: frames),
        ({"grayscale": False, "stack_num": 1}, 3, lambda frames: frames[:, 0].permute(0, 3, 1, 2)),
    ],
)
def test_frames_of_ale_go_in_as_they_come(layout, in_channels, to_images):
    envs = AtariVectorEnv("breakout", num_envs=2, num_threads=1, **layout)
    frames, _ = envs.reset(seed=0)
    envs.close()
    model = ActorCritic(SmallAtariEncoder(in_channels), num_actions=18)
    output, value = model(to_images(torch.from_numpy(frames)))
    assert (output.shape, value.shape) == ((2, 18), (2,))


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("make_encoder", [SmallAtariEncoder, NatureEncoder, lambda: TanhEncoder(4)])
def test_the_head_is_the_tail_of_the_flat_vector(make_encoder, continuous):
    model = ActorCritic(make_encoder(), num_actions=5, continuous=continuous)
    body = count(model.encoder)
    vector = ParameterVector(model)
    assert vector.head_offset() == body
    features = math.prod(model.encoder.feature_shape)
    assert vector.size - body == (features + 1) * 6 + 5 * continuous


@pytest.mark.parametrize("continuous", [False, True])
def test_a_fresh_network_is_drawn_from_its_seed_and_starts_undecided(continuous):
    model = ActorCritic(TanhEncoder(4), num_actions=3, continuous=continuous)
    first = initial_parameters(model, seed=1)
    assert torch.equal(initial_parameters(model, seed=1), first)
    assert not torch.equal(initial_parameters(model, seed=2), first)
    ParameterVector(model).load(first)
    output, value = model(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)))
    assert output[:, :3].abs().max() < 0.05
    assert value.abs().max() > 0.05
    if continuous:
        assert output.shape == (6, 6)
        assert torch.equal(output[:, 3:], torch.zeros(6, 3))
        torch.testing.assert_close(
            model.policy.entropy(output), torch.full((6,), 1.5 * math.log(2 * math.pi * math.e))
        )


@pytest.mark.parametrize("encoder", [SmallAtariEncoder(), TanhEncoder(4)])
def test_layers_start_orthogonal_and_without_biases(encoder):
    model = ActorCritic(copy.deepcopy(encoder), num_actions=3)
    ParameterVector(model).load(initial_parameters(model, seed=1))
    gains = {"head.policy.weight": 0.01, "head.value.weight": 1.0}
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
            continue
        rows = parameter.detach().flatten(1)
        rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
        expected = gains.get(name, math.sqrt(2)) ** 2 * torch.eye(len(rows))
        torch.testing.assert_close(rows @ rows.T, expected, atol=1e-4, rtol=0)


def test_standard_deviations_are_learned_and_do_not_depend_on_the_state():
    model = ActorCritic(TanhEncoder(4), num_actions=2, continuous=True)
    with torch.no_grad():
        model.head.log_std.copy_(torch.tensor([0.5, -1.0]))
    output, _ = model(torch.randn(3, 4))
    assert torch.equal(output[:, 2:], torch.tensor([[0.5, -1.0]]).expand(3, 2))
    model.policy.entropy(output).mean().backward()
    assert torch.equal(model.head.log_std.grad, torch.ones(2))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_under_bfloat16_outputs_have_32_bits_and_are_near_those_of_float32(encoder):
    torch.manual_seed(0)
    model, pixels = ActorCritic(encoder(), num_actions=6), images(4, 4, 84, 84)
    exact = model(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(pixels)
    for ours, expected in zip(mixed, exact, strict=True):
        assert ours.dtype is torch.float32
        assert (ours - expected).norm() < 0.02 * expected.norm()


def test_acting_without_graph_does_not_cut_the_gradients_of_the_same_autocast():
    """Autocast keeps its copies of weights: those made without graph must not be used with one."""
    torch.manual_seed(0)
    model, pixels = ActorCritic(SmallAtariEncoder(), num_actions=6), images(4, 4, 84, 84)
    grads = []
    for acts_before in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            if acts_before:
                with torch.no_grad():
                    model(pixels)
            output, value = model(pixels)
            (output.square().sum() + value.sum()).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(grads[0], grads[1])


def test_no_action_is_refused():
    with pytest.raises(ValueError, match="num_actions=0: expected at least 1"):
        ActorCritic(TanhEncoder(4), num_actions=0)


def test_an_encoder_without_layers_is_refused():
    with pytest.raises(ValueError, match="widths: expected at least one layer"):
        TanhEncoder(4, widths=())
