"""What a data set of alphabets is, once decoded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SIDE = 28  # pixels

Images = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class Alphabet:
    """A named set of characters, each given by the image rows of its drawings."""

    name: str
    characters: tuple[range, ...]

    @property
    def num_drawings(self) -> int:
        """How many drawings every one of its characters has at least."""
        return min(len(rows) for rows in self.characters)


@dataclass(frozen=True, slots=True, eq=False)
class AlphabetSet:
    """A decoded data set. `images` is read-only uint8 [N, 28, 28]: ink 255 on background 0."""

    name: str
    images: Images
    alphabets: tuple[Alphabet, ...]
    source: str  # which archives, and whether their hashes are the official ones
    licence: str
    digest: str  # sha256 of alphabets and images

    def header(self) -> dict[str, Any]:
        """Return, for a cache, all but the images."""
        return {
            "name": self.name,
            "alphabets": shape_of(self.alphabets),
            "source": self.source,
            "licence": self.licence,
            "digest": self.digest,
        }

    @classmethod
    def restore(cls, header: Mapping[str, Any], pixels: Images) -> AlphabetSet:
        """Return what `header` describes, on the flat `pixels`; ValueError if they do not fit."""
        images = pixels.reshape(-1, SIDE, SIDE)
        alphabets = lay_out(header["alphabets"])
        if content_digest(alphabets, images) != header["digest"]:
            raise ValueError("the images are not those that were stored")
        return cls(
            name=header["name"],
            images=images,
            alphabets=alphabets,
            source=header["source"],
            licence=header["licence"],
            digest=header["digest"],
        )


def lay_out(shape: Iterable[tuple[str, int, int]]) -> tuple[Alphabet, ...]:
    """Return alphabets over consecutive image rows.

    Args:
        shape: For each alphabet its name, number of characters and of drawings a character.
    """
    alphabets, start = [], 0
    for name, num_characters, num_drawings in shape:
        starts = range(start, start + num_characters * num_drawings, num_drawings)
        alphabets.append(Alphabet(name, tuple(range(s, s + num_drawings) for s in starts)))
        start += num_characters * num_drawings
    return tuple(alphabets)


def shape_of(alphabets: tuple[Alphabet, ...]) -> list[tuple[str, int, int]]:
    """Return what `lay_out` makes `alphabets` from."""
    return [(a.name, len(a.characters), a.num_drawings) for a in alphabets]


def content_digest(alphabets: tuple[Alphabet, ...], images: Images) -> str:
    """Return the sha256 of a data set's alphabets and pixels, as hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(shape_of(alphabets)).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()
