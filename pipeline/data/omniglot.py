"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each.

Lake, Salakhutdinov and Tenenbaum (2015), "Human-level concept learning through probabilistic
program induction", Science 350. The official drawings are 105×105, black ink on white, 1 bit;
here they are turned to ink 255 on 0 and reduced to 28×28 by Pillow's antialiased Lanczos filter,
the usual choice in work on few-shot learning. The filter's arithmetic is in integers, so the
pixels are the same on every machine.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from pipeline.data.alphabets import SIDE, AlphabetSet, Images, content_digest, lay_out
from pipeline.data.archives import open_archive
from pipeline.data.dataset import Dataset, SourceFile
from pipeline.data.omniglot_alphabets import BACKGROUND, EVALUATION
from pipeline.errors import BadInputError

DECODER_VERSION = 1
NUM_DRAWINGS = 20
DRAWN_SIDE = 105
MAX_PNG_BYTES = 64 << 10  # the largest official drawing has 522
ACCEPTED = "accepted by its content: its hash is not the official one"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
OFFICIAL_FOLDER = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
ENTRY = re.compile(r"images_(?:background|evaluation)/([^/]+)/character(\d\d)/\d{4}_(\d\d)\.png")


class Omniglot(Dataset):
    """The background and evaluation sets together, alphabet by alphabet."""

    name = "omniglot"
    licence = "MIT (Copyright (c) 2015 Brenden Lake)"
    files = (
        SourceFile(
            "omniglot/images_background.zip",
            OFFICIAL_FOLDER,
            md5="68d2efa1b9178cc56df9314c21c6e718",
            repacked_sha256="2dde4fac30a7fb1f0f2f14152ce68f0cc535caebc1785b3476aca191a8006762",
        ),
        SourceFile(
            "omniglot/images_evaluation.zip",
            OFFICIAL_FOLDER,
            md5="6b91aef0f799c5bb55b94e3f2daec811",
            repacked_sha256="054a79c3b28efea298539b819b8b3ca4e71e95370ffcd07bda67430fbd81f394",
        ),
    )
    alphabets: ClassVar[dict[str, dict[str, int]]] = {
        "images_background.zip": BACKGROUND,
        "images_evaluation.zip": EVALUATION,
    }

    def identity(self) -> str:
        """Return the archives' hashes; BadInputError says how to get what is missing."""
        hashes = [sha256(self.locate(self.root, file)) for file in self.files]
        return f"omniglot {DECODER_VERSION} {' '.join(hashes)}"

    def decode(self) -> AlphabetSet:
        """Decode both archives after checking them entry by entry."""
        images, shape, sources = [], [], []
        for file in self.files:
            path = self.locate(self.root, file)
            wanted = self.alphabets[file.name]
            try:
                images += [decode_drawing(path, name, png) for name, png in _drawings(path, wanted)]
            except BadInputError as error:
                raise BadInputError(f"{error}; {self.replaced_with()}") from None
            shape += [(name, num, NUM_DRAWINGS) for name, num in wanted.items()]
            verdict = known_by_hash(path, file) or ACCEPTED
            sources.append(f"{file.name} ({verdict}; SHA-256 {sha256(path)})")
        alphabets = lay_out(shape)
        pixels = np.stack(images)
        return AlphabetSet(
            name=self.name,
            images=pixels,
            alphabets=alphabets,
            source=", ".join(sources),
            licence=self.licence,
            digest=content_digest(alphabets, pixels),
        )

    @classmethod
    def check(cls, path: Path, file: SourceFile) -> str:
        """Say what the archive is known by; read every drawing of one that no hash is known of.

        The official archive is known by its MD5, the only hash it is published with; a copy
        packed anew by its SHA-256: both in hundredths of a second. Any other one is accepted for
        its content alone: exactly Omniglot's alphabets, characters and drawings, each a PNG of
        105×105, which takes a second.
        """
        known_by = known_by_hash(path, file)
        if known_by:
            return known_by
        for _ in _drawings(path, cls.alphabets[file.name]):
            pass
        return ACCEPTED


def known_by_hash(path: Path, file: SourceFile) -> str:
    """Return the hash by which `path` is known to be `file`; nothing if it is not known."""
    # Not for security, as collisions can be made: it says which file this is meant to be.
    if _digest(path, lambda: hashlib.md5(usedforsecurity=False)) == file.md5:
        return f"official by its MD5 {file.md5}"
    if sha256(path) == file.repacked_sha256:
        return "Omniglot packed anew, known by its SHA-256"
    return ""


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file in hexadecimal; BadInputError if it cannot be read."""
    return _digest(path, hashlib.sha256)


def _digest(path: Path, algorithm: Callable[[], hashlib._Hash]) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from None


def _drawings(path: Path, wanted: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    """Yield entry name and PNG file of each drawing, by alphabet, character and drawing.

    BadInputError if the archive does not hold exactly the alphabets `wanted`, each with its
    number of characters and 20 drawings of 105×105 a character.
    """
    expected = {
        (alphabet, character, drawing)
        for alphabet, num_characters in wanted.items()
        for character in range(1, num_characters + 1)
        for drawing in range(1, NUM_DRAWINGS + 1)
    }
    with open_archive(path, MAX_PNG_BYTES) as files:
        found = {}
        for name, read in files.items():
            match = ENTRY.fullmatch(name)
            key = (match[1], int(match[2]), int(match[3])) if match else None
            if key not in expected or key in found:
                raise BadInputError(f"{path}: entry {name!r:.120} is not one of Omniglot's")
            found[key] = (name, read)
        for key in sorted(expected, key=lambda k: (list(wanted).index(k[0]), *k[1:])):
            if key not in found:
                raise BadInputError(
                    f"{path}: {len(expected)} drawings expected, {len(found)} found; missing is "
                    f"{key[0]}/character{key[1]:02}, drawing {key[2]:02}"
                )
            name, read = found[key]
            yield name, checked_png(path, name, read())


def checked_png(path: Path, name: str, png: bytes) -> bytes:
    """Return `png` if its header says 105×105; checked before any decoder allocates for it."""
    if png[:8] != PNG_SIGNATURE or len(png) < 24:
        raise BadInputError(f"{path}: entry {name!r} is no PNG picture")
    width, height = struct.unpack(">II", png[16:24])
    if (width, height) != (DRAWN_SIDE, DRAWN_SIDE):
        raise BadInputError(
            f"{path}: entry {name!r} has {width} by {height} pixels; "
            f"expected {DRAWN_SIDE} by {DRAWN_SIDE}"
        )
    return png


def decode_drawing(path: Path, name: str, png: bytes) -> Images:
    """Return uint8 [28, 28], ink 255 on 0."""
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            paper = np.asarray(picture.convert("L"))
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInputError(f"{path}: entry {name!r} cannot be decoded: {error}") from None
    ink = Image.fromarray(255 - paper)
    return np.asarray(ink.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
