"""ResNet-12 and wide residual networks, against their papers' figures and layer by layer."""

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d, leaky_relu, max_pool2d, relu

from algorithms.baselines import initial_parameters
from algorithms.models.residual import ResNet12, WideResNet


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def randomised(module):
    """Batch-norms with weights of their own, so that one left out is noticed."""
    torch.manual_seed(2)
    for norm in (m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
        torch.nn.init.normal_(norm.bias)
    return module.double()


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def normalise(features, norm):
    return batch_norm(features, None, None, norm.weight, norm.bias, training=True)


def test_wrn_28_10_has_the_36_5_million_parameters_of_the_paper():
    with torch.device("meta"):
        encoder = WideResNet()
    with_head = count(encoder) + 640 * 10 + 10
    assert with_head == 36_479_194
    assert sum(isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)
               for m in encoder.modules()) == 25  # fmt: skip


@pytest.mark.parametrize(("width", "millions"), [(10, 36.5), (12, 52.5)])
def test_other_widths_have_the_parameters_of_table_4(width, millions):
    with torch.device("meta"):
        encoder = WideResNet(width=width)
    assert (count(encoder) + 64 * width * 10 + 10) / 1e6 == pytest.approx(millions, abs=0.1)


def test_resnet_12_has_the_8_million_parameters_that_papers_give():
    with torch.device("meta"):
        encoder = ResNet12()
    assert count(encoder) / 1e6 == pytest.approx(8.0, abs=0.05)
    convolutions = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(m.kernel_size == (3, 3) for m in convolutions) == 12


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("family", ["resnet", "wide"])
def test_shapes_are_those_of_images_and_features(family, size):
    encoder = ResNet12(1, size) if family == "resnet" else WideResNet(1, size, width=1)
    images = torch.rand(2, *encoder.input_shape)
    assert images.shape == (2, 1, size, size)
    assert encoder(images).shape == (2, *encoder.feature_shape)


def test_resnet_12_is_its_blocks_written_out():
    encoder = randomised(ResNet12(2, 16))
    features = inputs = images(5, 2, 16, 16)
    for block in encoder.blocks:
        straight = features
        for i in range(3):
            conv, norm = block.residual[3 * i], block.residual[3 * i + 1]
            straight = normalise(conv2d(straight, conv.weight, padding=1), norm)
            straight = straight if i == 2 else leaky_relu(straight, 0.1)
        side = normalise(conv2d(features, block.shortcut[0].weight), block.shortcut[1])
        features = max_pool2d(leaky_relu(straight + side, 0.1), 2)
    torch.testing.assert_close(encoder(inputs), features.flatten(2).mean(2))


def test_a_wide_network_is_its_blocks_written_out():
    encoder = randomised(WideResNet(2, 8, width=2))
    inputs = images(5, 2, 8, 8)
    features = conv2d(inputs, encoder.stem.weight, padding=1)
    strides = [1, 1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 1]
    for block, stride in zip(encoder.blocks, strides, strict=True):
        active = relu(normalise(features, block.norm1))
        inner = conv2d(active, block.conv1.weight, stride=stride, padding=1)
        outer = conv2d(relu(normalise(inner, block.norm2)), block.conv2.weight, padding=1)
        changes = outer.shape != features.shape
        assert changes == (block.shortcut is not None)
        side = conv2d(active, block.shortcut.weight, stride=stride) if changes else features
        features = outer + side
    maps = relu(normalise(features, encoder.norm))
    torch.testing.assert_close(encoder(inputs), maps.flatten(2).mean(2))


@pytest.mark.parametrize("encoder", [ResNet12(1, 16), WideResNet(1, 16, width=1)])
def test_a_start_drawn_from_a_seed_is_he_normal(encoder):
    start = initial_parameters(encoder, seed=3)
    assert torch.equal(start, initial_parameters(encoder, seed=3))
    offset = 0
    for parameter in encoder.parameters():
        values = start[offset : offset + parameter.numel()]
        offset += parameter.numel()
        if parameter.ndim == 4:
            fan_out = parameter.shape[0] * parameter.shape[2] * parameter.shape[3]
            sigma = (2 / fan_out) ** 0.5
            assert values.std() == pytest.approx(sigma, rel=6 / (2 * len(values)) ** 0.5)


def test_an_image_that_cannot_be_halved_four_times_is_refused():
    with pytest.raises(ValueError, match=r"image_size=12: four blocks halve .* needs 16 pixels"):
        ResNet12(3, 12)
