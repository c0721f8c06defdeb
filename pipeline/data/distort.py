"""Smooth random distortions that make drawings out of printed characters.

Shape letters: V drawings, T side of a drawn picture, H side of the sampled grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.data.alphabets import SIDE, Images

DRAWN_SIDE = 112
SAMPLED_SIDE = 2 * SIDE  # averaged 2×2 into the final picture
KNOTS = 4  # a side of the coarse grid that bends the picture

Drawings = np.ndarray[Any, np.dtype[np.float64]]


def distorted(ink: Drawings, generator: np.random.Generator) -> Images:
    """Return each drawing [V, T, T] (ink in [0, 1]) distorted, as uint8 [V, 28, 28]."""
    num = len(ink)
    x, y = _source_points(num, generator)
    sampled = _bilinear(ink, x, y)
    # Where to cut the soft edge: a low threshold gives a thick stroke, a high one a thin one.
    threshold = generator.uniform(0.3, 0.6, (num, 1, 1))
    sharp = np.clip((sampled - threshold) * 5 + 0.5, 0, 1)
    pixels = sharp.reshape(num, SIDE, 2, SIDE, 2).mean(axis=(2, 4))
    return np.asarray(np.rint(pixels * 255), dtype=np.uint8)


def _source_points(num: int, generator: np.random.Generator) -> tuple[Drawings, Drawings]:
    """Return x and y [V, H, H], in pixels of the drawn picture, of each sampled point."""

    def draw(low: float, high: float) -> Drawings:
        return generator.uniform(low, high, (num, 1, 1))

    step = DRAWN_SIDE / SAMPLED_SIDE
    centres = (np.arange(SAMPLED_SIDE) + 0.5) * step - DRAWN_SIDE / 2
    x, y = centres[None, None, :], centres[None, :, None]
    turn, slant = draw(-0.2, 0.2), draw(-0.2, 0.2)  # radians; share of the height
    wide, tall = draw(0.8, 1.1), draw(0.8, 1.1)
    bend_x, bend_y = (_bend(num, generator) for _ in range(2))
    turned_x = np.cos(turn) * x + np.sin(turn) * y
    turned_y = np.cos(turn) * y - np.sin(turn) * x
    source_x = (turned_x + slant * turned_y) / wide + bend_x
    source_y = turned_y / tall + bend_y
    return source_x + DRAWN_SIDE / 2 - 0.5, source_y + DRAWN_SIDE / 2 - 0.5


def _bend(num: int, generator: np.random.Generator) -> Drawings:
    """Return displacements [V, H, H] in pixels: normal draws at coarse knots, smooth between."""
    knots = generator.normal(0, 5, (num, KNOTS, KNOTS))
    place = np.linspace(0, KNOTS - 1, SAMPLED_SIDE)
    distance = np.abs(place[:, None] - np.arange(KNOTS))
    weights = np.where(distance < 1, 0.5 + 0.5 * np.cos(np.pi * distance), 0)
    smooth: Drawings = np.einsum("hk,vkl,gl->vhg", weights, knots, weights, optimize=True)
    return smooth


def _bilinear(ink: Drawings, x: Drawings, y: Drawings) -> Drawings:
    """Return `ink` [V, T, T] between its pixels at (x, y) [V, H, H]; 0 at and beyond the edge."""
    x, y = (np.clip(a, 0, DRAWN_SIDE - 1.001) for a in (x, y))  # the edge has no ink
    column, row = x.astype(np.intp), y.astype(np.intp)
    right, down = x - column, y - row
    corner = (np.arange(len(ink))[:, None, None] * DRAWN_SIDE + row) * DRAWN_SIDE + column
    flat = ink.ravel()
    upper = flat[corner] * (1 - right) + flat[corner + 1] * right
    lower = flat[corner + DRAWN_SIDE] * (1 - right) + flat[corner + DRAWN_SIDE + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)
