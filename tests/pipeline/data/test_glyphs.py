import unicodedata

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pipeline.data.alphabets import shape_of
from pipeline.data.glyph_alphabets import GLYPH_ALPHABETS
from pipeline.data.glyphs import Glyphs, _draw_character, _ink, faces_with


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory):
    return Glyphs(tmp_path_factory.getbasetemp()).decode()


def test_there_are_enough_alphabets_of_twenty_characters():
    assert sum(len(set(c)) >= 20 for c in GLYPH_ALPHABETS.values()) == len(GLYPH_ALPHABETS) >= 30


def test_no_character_is_in_two_alphabets():
    characters = "".join(GLYPH_ALPHABETS.values())
    assert len(set(characters)) == len(characters)


def test_every_character_is_a_letter_with_a_glyph_in_two_faces():
    for character in "".join(GLYPH_ALPHABETS.values()):
        assert unicodedata.category(character).startswith("L"), character
        assert len(faces_with(character)) >= 2, character


def test_shape_and_range(glyphs):
    num_characters = sum(map(len, GLYPH_ALPHABETS.values()))
    assert glyphs.images.shape == (20 * num_characters, 28, 28)
    assert glyphs.images.dtype == np.uint8
    assert shape_of(glyphs.alphabets) == [(n, len(c), 20) for n, c in GLYPH_ALPHABETS.items()]
    ink = glyphs.images.reshape(len(glyphs.images), -1)
    assert ink.max(axis=1).min() > 128  # no drawing is empty
    share = (ink > 128).mean(axis=1)
    assert share.min() > 0.005
    assert share.max() < 0.6


def test_all_drawings_differ(glyphs):
    assert len({image.tobytes() for image in glyphs.images}) == len(glyphs.images)


def test_drawings_are_the_same_every_time(glyphs):
    name = "Greek_upper"
    alphabet = next(a for a in glyphs.alphabets if a.name == name)
    rows = alphabet.characters[5]
    again = _draw_character(GLYPH_ALPHABETS[name][5], name)
    assert np.array_equal(glyphs.images[rows.start : rows.stop], again)


def turns(character):
    """Blurred, normalised pictures of the character at every 30 degrees."""
    picture = Image.fromarray(np.uint8(_ink(character, "DejaVuSans") * 255))
    soft = picture.filter(ImageFilter.GaussianBlur(2))
    turned = [soft.rotate(a, Image.Resampling.BILINEAR).resize((28, 28)) for a in range(0, 360, 30)]
    flat = np.stack([np.asarray(t, dtype=np.float32).ravel() for t in turned])
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["Latin_lower", "Canadian_syllabics_1", "Lisu"])
def test_characters_of_an_alphabet_differ_at_every_turn(name):
    turned = np.stack([turns(c) for c in GLYPH_ALPHABETS[name]])
    likeness = np.einsum("ip,jrp->ijr", turned[:, 0], turned).max(axis=2)
    np.fill_diagonal(likeness, 0)
    assert likeness.max() < 0.965


def test_the_likeness_above_would_catch_turned_letters():
    likeness = (turns("u")[0] @ turns("n").T).max()
    assert likeness > 0.98
