"""The network of the Leap-Omniglot experiment."""

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d, linear, max_pool2d, relu

from algorithms.models.conv import ConvEncoder, ConvNet


def random_net(**options):
    torch.manual_seed(0)
    return ConvNet(5, num_filters=6, **options).double()


def random_images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("has_norm", [True, False])
def test_block_is_convolution_pool_norm_relu(has_norm):
    net = random_net(batch_norm=has_norm)
    images = random_images(4, 1, 28, 28)

    features = images
    for block in net.encoder:
        features = conv2d(features, block.conv.weight, block.conv.bias, padding=1)
        features = max_pool2d(features, 2)
        if has_norm:
            features = batch_norm(
                features, None, None, block.norm.weight, block.norm.bias, training=True
            )
        features = relu(features)
    expected = linear(features.flatten(1), net.head.weight, net.head.bias)

    torch.testing.assert_close(net(images), expected)


def test_gradients_are_those_of_finite_differences():
    net = random_net(image_size=6, num_blocks=2)
    images = random_images(3, 1, 6, 6).requires_grad_()
    parameters = dict(net.named_parameters())

    def logits(images, *values):
        values = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(net, values, images)

    assert torch.autograd.gradcheck(logits, (images, *parameters.values()))


def test_sizes_are_those_of_the_paper():
    net = ConvNet(20)

    convolutions = 9 * 64 + 64 + 3 * (9 * 64 * 64 + 64)
    assert sum(p.numel() for p in net.parameters()) == convolutions + 4 * 2 * 64 + 65 * 20
    assert net(torch.rand(2, 1, 28, 28)).shape == (2, 20)


def test_head_comes_last():
    names = [name for name, _ in ConvNet(20).named_parameters()]

    assert names[-2:] == ["head.weight", "head.bias"]
    assert not any(name.startswith("head.") for name in names[:-2])


@pytest.mark.parametrize(("channels", "size", "blocks"), [(3, 32, 4), (2, 9, 3), (1, 2, 1)])
def test_other_images_and_depths(channels, size, blocks):
    net = ConvNet(7, in_channels=channels, image_size=size, num_filters=4, num_blocks=blocks)

    assert net(torch.rand(2, channels, size, size)).shape == (2, 7)


def test_too_many_blocks_for_the_image_are_refused():
    with pytest.raises(ValueError, match=r"num_blocks=5.*28 pixels can be halved 4 times"):
        ConvNet(20, num_blocks=5)


def test_memory_format_does_not_change_the_result():
    net = random_net()
    images = random_images(4, 1, 28, 28)
    channels_last = images.view(4, 28, 28, 1).permute(0, 3, 1, 2)

    torch.testing.assert_close(net(channels_last), net(images))


def test_bfloat16_is_close_to_float32():
    net = random_net().float()
    images = random_images(20, 1, 28, 28).float()

    with torch.autocast("cpu", torch.bfloat16):
        half = net(images)

    assert half.dtype is torch.bfloat16
    full = net(images)
    assert (half.float() - full).norm() < 0.05 * full.norm()


@pytest.mark.parametrize(("pooled", "side"), [(None, 1), (4, 1), (2, 7), (0, 28)])
def test_only_the_first_blocks_pool(pooled, side):
    encoder = ConvEncoder(num_filters=3, num_pooled_blocks=pooled)

    assert encoder.feature_shape == (3, side, side)
    assert encoder(torch.rand(2, 1, 28, 28)).shape == (2, 3, side, side)


@pytest.mark.parametrize("pooled", [-1, 5])
def test_more_pooled_blocks_than_blocks_are_refused(pooled):
    with pytest.raises(ValueError, match=rf"num_pooled_blocks={pooled}: expected 0 to 4"):
        ConvEncoder(num_pooled_blocks=pooled)
