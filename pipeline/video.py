"""Frames as a video: H.264 in an MP4 file through PyAV, or an animated GIF through Pillow."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import BadInputError
from pipeline.files import atomic_file, check_destination

Frame = NDArray[np.uint8]
"""[height, width, 3], RGB; any one video's frames are of one size."""

SUFFIXES = (".mp4", ".gif")
# With x264's macroblock tree, the same frames do not always become the same video.
SAME_BITS = "mbtree=0"
QUALITY = "18"  # of H.264, constant rate factor: as good as the original to the eye
HUNDREDTHS = 100  # a GIF shows each frame for whole hundredths of a second


def check_video(path: Path) -> None:
    """Raise BadInputError unless a video can be written to `path`, in a folder that is there."""
    check_encoder(path)
    check_destination(path, "video")


def check_encoder(path: Path) -> None:
    """Raise BadInputError unless there is an encoder for what the suffix of `path` names."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise BadInputError(f"{path}: expected a video's name to end in {' or '.join(SUFFIXES)}")
    if suffix == ".mp4" and importlib.util.find_spec("av") is None:
        raise BadInputError(
            f"{path}: an .mp4 takes PyAV, which is not installed: pip install 'outerloop[video]', "
            "or name a .gif with --output"
        )


def write_video(path: Path, frames: Iterable[Frame], frames_per_s: float) -> None:
    """Write `frames`, at least one, in the format that the suffix names, whole or not at all.

    Rows or columns of an odd number get their last one twice in an MP4, whose colours have half
    the resolution. Equal frames in a row are one in a GIF, shown for longer.
    """
    encode = _encode_mp4 if path.suffix.lower() == ".mp4" else _encode_gif
    with atomic_file(path) as temporary:
        encode(temporary, frames, Fraction(frames_per_s).limit_denominator(1000))


def _encode_mp4(path: Path, frames: Iterable[Frame], rate: Fraction) -> None:
    import av  # optional

    # The index goes first, so that a browser begins to play before it has all.
    with av.open(path, "w", format="mp4", options={"movflags": "faststart"}) as container:
        options = {"crf": QUALITY, "x264-params": SAME_BITS}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.pix_fmt = "yuv420p"  # what every player takes
        stream.codec_context.thread_count = 1
        for frame in frames:
            even = _of_even_size(frame)
            if not stream.codec_context.is_open:
                stream.height, stream.width = even.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode(None))


def _of_even_size(frame: Frame) -> Frame:
    height, width, _ = frame.shape
    padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(padded)


def _encode_gif(path: Path, frames: Iterable[Frame], rate: Fraction) -> None:
    # Each with a palette of its own: the games have fewer colours than it holds.
    first, *others = (Image.fromarray(frame).quantize() for frame in frames)
    ends = [round(HUNDREDTHS * place / rate) for place in range(len(others) + 2)]
    durations_ms = [10 * (end - start) for start, end in pairwise(ends)]
    first.save(path, "GIF", save_all=True, append_images=others, duration=durations_ms, loop=0)
