"""Pictures are taken as a person sees them."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.data.pictures import Picture, decode_classes, decode_resized
from pipeline.errors import BadInputError

QUARTER_TURN = 6  # of the EXIF tag for orientation: shown turned clockwise
ORIENTATION = 0x0112


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Picture("a", "a.png", buffer.getvalue())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_ink_on_a_transparent_sheet_is_ink_on_paper(mode):
    clear = (0, 0, 0, 0) if mode == "RGBA" else (0, 0)
    image = Image.new("RGBA" if mode == "RGBA" else "LA", (100, 100), clear)
    ImageDraw.Draw(image).rectangle((40, 0, 59, 99), fill=(*clear[:-1], 255))
    options = {}
    if mode == "P":  # palette number 1 is transparent, number 0 is black
        image = Image.fromarray((np.asarray(image)[..., 1] == 0).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 0, 0, 0])
        options = {"transparency": 1}
    pixels = decode_resized(encoded(image, **options), 20, 1)
    expected = np.zeros((20, 20), np.uint8)
    expected[:, 8:12] = 255
    np.testing.assert_array_equal(pixels, expected)
    colour = decode_resized(encoded(image, **options), 20, 3)
    np.testing.assert_array_equal(colour, 255 - expected[..., None].repeat(3, axis=2))


def test_a_picture_is_turned_as_its_camera_says():
    image = Image.new("RGB", (64, 64), "black")
    ImageDraw.Draw(image).rectangle((0, 0, 63, 15), fill=(255, 0, 0))  # above, as it is stored
    exif = Image.Exif()
    exif[ORIENTATION] = QUARTER_TURN
    picture = encoded(image, exif=exif)
    resized = decode_resized(picture, 32, 3)
    assert resized[:, -8:, 0].min() == 255  # to the right, as it is shown
    assert resized[:, :-8].max() == 0
    (stored,) = decode_classes("mine", [picture], 64, source="", licence="").images
    np.testing.assert_array_equal(stored[::2, ::2], resized)


def test_sixteen_bits_of_grey_keep_their_shades():
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)[None].repeat(64, axis=0)
    ramp[:48] //= 8  # mostly dark: not turned over
    pixels = decode_resized(encoded(Image.fromarray(ramp)), 64, 1)
    np.testing.assert_allclose(pixels, ramp / 257, atol=1)


def test_a_picture_that_breaks_off_is_named():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8))
    whole = encoded(image)
    with pytest.raises(BadInputError, match=r"^a\.png: cannot be decoded"):
        decode_resized(whole._replace(encoded=whole.encoded[:2000]), 32, 1)
