import math

import pytest
import torch

from pipeline.data.augment import affine_matrices, apply_affine, draw_affine


def naive_affine(image, angle, scale, shift):
    """Where does the ink of each result pixel come from? One pixel at a time, in pixels."""
    side = image.shape[-1]
    middle = (side - 1) / 2
    result = torch.zeros_like(image)
    for row in range(side):
        for column in range(side):
            x = column - middle - shift[0] * side
            y = row - middle - shift[1] * side
            source_x = (math.cos(angle) * x + math.sin(angle) * y) / scale + middle
            source_y = (-math.sin(angle) * x + math.cos(angle) * y) / scale + middle
            left, top = math.floor(source_x), math.floor(source_y)
            for i, j in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                if 0 <= i < side and 0 <= j < side:
                    weight = (1 - abs(source_y - i)) * (1 - abs(source_x - j))
                    result[row, column] += weight * image[i, j]
    return result


@pytest.mark.parametrize(
    ("angle", "scale", "shift"),
    [
        (0.0, 1.0, (0.0, 0.0)),
        (0.7, 1.0, (0.0, 0.0)),
        (0.0, 1.2, (0.0, 0.0)),
        (0.0, 0.8, (0.0, 0.0)),
        (0.0, 1.0, (0.2, -0.13)),
        (4.1, 0.87, (-0.11, 0.19)),
    ],
)
def test_affine_agrees_with_a_pixel_by_pixel_reference(angle, scale, shift):
    image = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    matrix = affine_matrices(torch.tensor([angle]), torch.tensor([scale]), torch.tensor([shift]))
    mapped = apply_affine(image[None, None], matrix)[0, 0]
    torch.testing.assert_close(mapped, naive_affine(image, angle, scale, shift), atol=3e-5, rtol=0)


def test_quarter_turn_turns_right_into_down():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 4] = 1
    matrix = affine_matrices(torch.tensor([math.pi / 2]), torch.ones(1), torch.zeros(1, 2))
    assert apply_affine(image, matrix)[0, 0, 4, 2] == pytest.approx(1, abs=1e-5)


def test_shift_goes_right_and_down_by_a_share_of_the_side():
    image = torch.zeros(1, 1, 10, 10)
    image[0, 0, 3, 3] = 1
    matrix = affine_matrices(torch.zeros(1), torch.ones(1), torch.tensor([[0.2, 0.1]]))
    assert apply_affine(image, matrix)[0, 0, 4, 5] == pytest.approx(1, abs=1e-5)


def test_each_image_of_a_batch_gets_its_own_map():
    images = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    matrices = draw_affine(6, torch.Generator().manual_seed(2))
    together = apply_affine(images, matrices)
    for i in range(6):
        torch.testing.assert_close(
            together[i : i + 1], apply_affine(images[i : i + 1], matrices[i : i + 1])
        )


def test_draws_fill_the_published_ranges_and_stay_inside():
    matrices = draw_affine(20_000, torch.Generator().manual_seed(3)).double()
    linear, offset = matrices[:, :, :2], matrices[:, :, 2:]
    scale = linear.det().rsqrt()
    angle = torch.atan2(linear[:, 0, 1], linear[:, 0, 0]) % (2 * math.pi)
    shift = -torch.linalg.solve(linear, offset).squeeze(2) / 2
    for values, low, high in (
        (scale, 0.8, 1.2),
        (angle, 0.0, 2 * math.pi),
        (shift[:, 0], -0.2, 0.2),
        (shift[:, 1], -0.2, 0.2),
    ):
        width = high - low
        assert values.min() >= low - 1e-6 * width
        assert values.max() <= high + 1e-6 * width
        deciles = torch.histc(values, bins=10, min=low, max=high) / len(values)
        assert (deciles - 0.1).abs().max() < 0.02, (low, high, deciles)


def test_draws_are_independent_of_each_other():
    matrices = draw_affine(20_000, torch.Generator().manual_seed(4)).double()
    linear = matrices[:, :, :2]
    shift = -torch.linalg.solve(linear, matrices[:, :, 2:]).squeeze(2) / 2
    drawn = torch.stack([linear.det(), torch.atan2(linear[:, 0, 1], linear[:, 0, 0]), *shift.T])
    assert (torch.corrcoef(drawn) - torch.eye(4)).abs().max() < 0.03


def test_autocast_does_not_blur_the_map():
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(5))
    matrices = draw_affine(4, torch.Generator().manual_seed(6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mapped = apply_affine(images, matrices)
    assert torch.equal(mapped, apply_affine(images, matrices))
