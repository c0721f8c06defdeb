"""What the plots of a run have in common: colours, axes, smoothing, files."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.errors import BadInputError
from pipeline.files import write_atomic

# Okabe and Ito's palette, told apart with any kind of colour vision; yellow is too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")  # so that methods differ in grey as well
SMOOTHING = 20  # the window is this fraction of the curve
MIN_SMOOTHED_STEPS = 40
DOTS_PER_INCH = 130
FORMATS = ("png", "pdf", "svg")

Array = npt.NDArray[np.float64]


def picture_format(path: Path) -> str:
    """Return the format that the suffix of `path` names; BadInputError if it is none of ours."""
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise BadInputError(f"{path}: expected a plot's name to end in one of {known}")
    return suffix


def finish_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Label the axes and take away what is not read."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)


def smooth(values: Array, width: int) -> Array:
    """Return the running mean over up to `width` steps; at the ends over those there are."""
    if width == 1:
        return values
    ones = np.ones(width)
    counts = np.convolve(np.ones_like(values), ones, "same")
    smoothed: Array = np.convolve(values, ones, "same") / counts
    return smoothed


def wrapped(method: str, width: int) -> str:
    """Return the name on lines of at most `width` characters, four at most."""
    return "\n".join(textwrap.wrap(method, width, max_lines=4, placeholder="…"))


def save_figure(figure: Figure, path: Path) -> Path:
    """Write the figure in the format that the suffix names, whole or not at all; return `path`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=picture_format(path), dpi=DOTS_PER_INCH)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())
    return path
