"""Glyphs: alphabets drawn from the DejaVu fonts that come with matplotlib.

An offline stand-in with Omniglot's structure: characters of many alphabets, 20 drawings each.
A drawing is a character in one of the fonts' faces (sans, serif, monospaced; bold, oblique),
slanted, stretched, smoothly bent and with a stroke of its own width.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import PIL
from matplotlib import get_data_path
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFilter, ImageFont, features

from pipeline.data.alphabets import AlphabetSet, Images, content_digest, lay_out
from pipeline.data.dataset import Dataset, SourceFile
from pipeline.data.distort import DRAWN_SIDE, Drawings, distorted
from pipeline.data.glyph_alphabets import GLYPH_ALPHABETS
from pipeline.errors import BadInputError
from pipeline.seeding import numpy_generator

DECODER_VERSION = 1
NUM_DRAWINGS = 20
FONT_PIXELS = 96
INK_PIXELS = 74  # longer side of a character's ink in a picture of DRAWN_SIDE pixels
FACES = (
    "DejaVuSans",
    "DejaVuSerif",
    "DejaVuSansMono",
    "DejaVuSans-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSansMono-Oblique",
    "DejaVuSans-Oblique",
    "DejaVuSerif-Bold",
    "DejaVuSansMono-Bold",
)


class Glyphs(Dataset):
    """The embedded data set; needs no files but the installed fonts."""

    name = "glyphs"
    licence = "DejaVu fonts (Bitstream Vera licence; changes in the public domain)"
    files = ()

    def identity(self) -> str:
        """Return a hash of characters and fonts, and the versions of what draws them."""
        digest = hashlib.sha256(json.dumps(GLYPH_ALPHABETS).encode())
        for face in FACES:
            digest.update(_font_path(face).read_bytes())
        freetype = features.version("freetype2")
        return f"glyphs {DECODER_VERSION} {digest.hexdigest()} {PIL.__version__} {freetype}"

    def decode(self) -> AlphabetSet:
        """Draw all characters: the same pictures every time."""
        images = np.concatenate(
            [
                _draw_character(character, alphabet)
                for alphabet, characters in GLYPH_ALPHABETS.items()
                for character in characters
            ]
        )
        alphabets = lay_out((n, len(c), NUM_DRAWINGS) for n, c in GLYPH_ALPHABETS.items())
        return AlphabetSet(
            name=self.name,
            images=images,
            alphabets=alphabets,
            source="drawn from the DejaVu fonts that come with matplotlib",
            licence=self.licence,
            digest=content_digest(alphabets, images),
        )

    @classmethod
    def check(cls, path: Path, file: SourceFile) -> str:
        """Refuse: no file belongs to this data set."""
        raise BadInputError(f"{path}: the data set glyphs has no files")


def faces_with(character: str) -> list[str]:
    """Return the faces that have a glyph of their own for `character`."""
    return [face for face in FACES if ord(character) in _code_points(face)]


def _draw_character(character: str, alphabet: str) -> Images:
    """Return uint8 [NUM_DRAWINGS, 28, 28]: drawings that go through all faces in turn."""
    faces = faces_with(character)
    if not faces:
        raise BadInputError(
            f"{_font_path(FACES[0]).parent}: no DejaVu font there has the character "
            f"U+{ord(character):04X}; install matplotlib anew"
        )
    ink = np.stack([_ink(character, face) for face in faces])
    which = np.arange(NUM_DRAWINGS) % len(faces)
    return distorted(ink[which], numpy_generator(0, "glyphs", alphabet, character))


def _ink(character: str, face: str) -> Drawings:
    """Return the character centred in a square picture, its ink INK_PIXELS long; in [0, 1]."""
    canvas = Image.new("L", (4 * FONT_PIXELS, 4 * FONT_PIXELS))
    ImageDraw.Draw(canvas).text((FONT_PIXELS, FONT_PIXELS), character, fill=255, font=_font(face))
    box = canvas.getbbox()
    if box is None:
        raise BadInputError(f"{_font_path(face)}: U+{ord(character):04X} has no ink")
    glyph = canvas.crop(box)
    shrink = INK_PIXELS / max(glyph.size)
    width, height = (max(1, round(side * shrink)) for side in glyph.size)
    glyph = glyph.resize((width, height), Image.Resampling.LANCZOS)
    picture = Image.new("L", (DRAWN_SIDE, DRAWN_SIDE))
    picture.paste(glyph, ((DRAWN_SIDE - width) // 2, (DRAWN_SIDE - height) // 2))
    soft = picture.filter(ImageFilter.GaussianBlur(2))  # a slope for the stroke width to move on
    return np.asarray(soft, dtype=np.float64) / 255


def _font_path(face: str) -> Path:
    path = Path(get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    if not path.is_file():
        raise BadInputError(f"{path}: font not found; install matplotlib anew")
    return path


@cache
def _font(face: str) -> ImageFont.FreeTypeFont:
    # The basic layout does not depend on whether a shaping library is installed.
    layout = ImageFont.Layout.BASIC
    return ImageFont.truetype(str(_font_path(face)), FONT_PIXELS, layout_engine=layout)


@cache
def _code_points(face: str) -> frozenset[int]:
    return frozenset(FT2Font(str(_font_path(face))).get_charmap())
