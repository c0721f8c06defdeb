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


@pytest.mark.parametrize(
    ("depth", "width", "millions"), [(16, 8, 11.0), (40, 4, 8.9), (22, 8, 17.2), (16, 10, 17.1)]
)
def test_other_depths_and_widths_have_the_parameters_of_table_4(depth, width, millions):
    with torch.device("meta"):
        encoder = WideResNet(depth=depth, width=width)
    assert (count(encoder) + 64 * width * 10 + 10) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(
    ("widths", "millions"), [((64, 128, 256, 512), 8.0), ((64, 160, 320, 640), 12.4)]
)
def test_resnet_12_has_the_parameters_that_papers_give(widths, millions):
    with torch.device("meta"):
        encoder = ResNet12(widths=widths)
    assert count(encoder) / 1e6 == pytest.approx(millions, abs=0.05)
    convolutions = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(m.kernel_size == (3, 3) for m in convolutions) == 12


@pytest.mark.parametrize("size", [32, 33, 84])
@pytest.mark.parametrize("global_pool", [True, False])
@pytest.mark.parametrize("family", ["resnet", "wide"])
def test_feature_shape_is_that_of_the_features(family, global_pool, size):
    if family == "resnet":
        encoder = ResNet12(1, size, widths=(2, 3, 4, 5), global_pool=global_pool)
    else:
        encoder = WideResNet(1, size, depth=10, width=1, global_pool=global_pool)
    assert encoder(torch.rand(2, 1, size, size)).shape == (2, *encoder.feature_shape)


def test_resnet_12_is_its_blocks_written_out():
    encoder = randomised(ResNet12(2, 8, widths=(3, 4), global_pool=True))
    features = inputs = images(5, 2, 8, 8)
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
    encoder = randomised(WideResNet(2, 8, depth=16, width=2, global_pool=False))
    inputs = images(5, 2, 8, 8)
    features = conv2d(inputs, encoder.stem.weight, padding=1)
    strides = [1, 1, 2, 1, 2, 1]
    for block, stride in zip(encoder.blocks, strides, strict=True):
        active = relu(normalise(features, block.norm1))
        inner = conv2d(active, block.conv1.weight, stride=stride, padding=1)
        outer = conv2d(relu(normalise(inner, block.norm2)), block.conv2.weight, padding=1)
        changes = outer.shape != features.shape
        assert changes == (block.shortcut is not None)
        side = conv2d(active, block.shortcut.weight, stride=stride) if changes else features
        features = outer + side
    torch.testing.assert_close(encoder(inputs), relu(normalise(features, encoder.norm)))


@pytest.mark.parametrize("make", [ResNet12, WideResNet])
def test_dropout_or_none_evaluation_repeats(make):
    encoder = make(1, 16, **({"depth": 10, "width": 1, "dropout": 0.5} if make is WideResNet else
                             {"widths": (2, 2, 2, 2)})).eval()  # fmt: skip
    inputs = torch.rand(2, 1, 16, 16)
    assert torch.equal(encoder(inputs), encoder(inputs))


@pytest.mark.parametrize("encoder", [ResNet12(1, 16, (8, 8)), WideResNet(1, 16, depth=10, width=1)])
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


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="widths: 4 blocks halve an image of 12 pixels"):
        ResNet12(3, 12)
    with pytest.raises(ValueError, match="widths: expected at least one"):
        ResNet12(3, 12, widths=())
    with pytest.raises(ValueError, match="depth: expected 6 n"):
        WideResNet(depth=12)
    with pytest.raises(ValueError, match="dropout: expected"):
        WideResNet(dropout=1.0)
