"""Encoded pictures from files and Parquet tables, checked and decoded class by class."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from pipeline.data.alphabets import Images
from pipeline.data.image_classes import ClassSplit, ImageClasses, image_classes
from pipeline.errors import BadInputError

FORMATS = ["PNG", "JPEG", "BMP", "PPM", "GIF", "WEBP"]
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".gif", ".webp"}
COLUMNS = ["image", "label", "class_name"]
ROWS_AT_ONCE = 1000


class Picture(NamedTuple):
    """One encoded picture."""

    class_name: str
    where: str  # for messages
    encoded: bytes


def size_of(picture: Picture) -> tuple[int, int]:
    """Return width and height; BadInputError if it is no picture."""
    with _opened(picture) as image:
        return image.size


def decode_classes(
    name: str,
    pictures: Iterable[Picture],
    side: int,
    *,
    source: str,
    licence: str,
    splits: dict[str, ClassSplit] | None = None,
    classes: Iterable[str] = (),
) -> ImageClasses:
    """Return the data set of `pictures`, in colour; classes in the order of their names.

    BadInputError, naming the picture, for one that cannot be decoded or is not `side` by `side`;
    and for a class that is not one of `classes`, or one of them without pictures.
    """
    found: dict[str, list[Images]] = {class_name: [] for class_name in sorted(classes)}
    closed = bool(found)
    for picture in pictures:
        if closed and picture.class_name not in found:
            raise BadInputError(f"{picture.where}: {name} has no class {picture.class_name!r:.120}")
        found.setdefault(picture.class_name, []).append(_decode(picture, side))
    for class_name, images in found.items():
        if not images:
            raise BadInputError(f"{source}: no picture of class {class_name!r:.120} was found")
    sizes = [(class_name, len(found[class_name])) for class_name in sorted(found)]
    pixels = np.stack([image for class_name, _ in sizes for image in found[class_name]])
    return image_classes(name, pixels, sizes, source, licence, splits)


def parquet_pictures(path: Path) -> Iterator[Picture]:
    """Yield the rows of a Parquet file with the columns image, label and class_name."""
    check_parquet(path)
    try:
        with pq.ParquetFile(path) as file:
            row = 0
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=["image", "class_name"]):
                columns = zip(batch["class_name"].to_pylist(), batch["image"], strict=True)
                for class_name, image in columns:
                    yield Picture(str(class_name), f"{path}: row {row}", image.as_py() or b"")
                    row += 1
    except (pa.ArrowException, OSError) as error:
        raise BadInputError(f"{path}: is damaged ({_first_line(error)})") from None


def check_parquet(path: Path) -> None:
    """Raise BadInputError if `path` is no Parquet file of pictures; the pictures are not read."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise BadInputError(f"{path}: is no Parquet file ({_first_line(error)})") from None
    missing = [column for column in COLUMNS if column not in schema.names]
    if missing:
        raise BadInputError(
            f"{path}: has no column {', '.join(missing)}; expected {', '.join(COLUMNS)}"
        )
    if not pa.types.is_binary(schema.field("image").type):
        raise BadInputError(f"{path}: column image: expected encoded pictures (binary)")


def file_picture(path: Path, class_name: str) -> Picture:
    """Return the picture in the file `path`."""
    try:
        return Picture(class_name, str(path), path.read_bytes())
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from None


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """Return the picture files in each folder directly inside `folder`, all by name.

    BadInputError if it cannot be read, or no folder in it has a picture.
    """
    try:
        found = {
            entry.name: sorted(p for p in entry.iterdir() if p.suffix.lower() in SUFFIXES)
            for entry in sorted(folder.iterdir())
            if entry.is_dir() and not entry.name.startswith(".")
        }
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be read: {error.strerror}") from None
    empty = [name for name, files in found.items() if not files]
    if empty and len(empty) < len(found):
        raise BadInputError(
            f"{folder / empty[0]}: has no pictures; put PNG or JPEG files there, or remove it"
        )
    if not any(found.values()):
        raise BadInputError(
            f"{folder}: has no pictures; expected a folder for each class, with PNG or JPEG files"
        )
    return found


def listing_digest(files: Iterable[Path]) -> str:
    """Return a hash of names, sizes and times: of many small files, quicker than their content."""
    digest = hashlib.sha256()
    for path in files:
        stat = path.stat()
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def decode_resized(picture: Picture, side: int, channels: int) -> Images:
    """Return the picture, its middle square resized: uint8 [side, side], or [side, side, 3].

    It is taken as one sees it, on white paper where it is transparent. Where one channel is
    wanted, ink or light is 255: a picture that is mostly light is taken for ink on paper and
    turned over. BadInputError for what cannot be decoded.
    """
    with _opened(picture) as image:
        colour = _converted(image, "L" if channels == 1 else "RGB", picture.where)
    short = min(colour.size)
    left, top = (colour.width - short) // 2, (colour.height - short) // 2
    box = (left, top, left + short, top + short)
    pixels = np.asarray(colour.resize((side, side), Image.Resampling.BOX, box))
    return 255 - pixels if channels == 1 and pixels.mean() > 127 else pixels


def _decode(picture: Picture, side: int) -> Images:
    """Return uint8 [side, side, 3]."""
    with _opened(picture) as image:
        if image.size != (side, side):  # before any decoder allocates for it
            raise BadInputError(
                f"{picture.where}: {image.width} by {image.height} pixels; expected {side} by "
                f"{side}"
            )
        return np.asarray(_converted(image, "RGB", picture.where))


def _converted(image: Image.Image, mode: str, where: str) -> Image.Image:
    """Return `image` as one sees it, in `mode` L or RGB with 8 bits a channel.

    Turned as its EXIF data say; what is transparent shows white paper; 16 bits of grey are scaled
    down. BadInputError, `where` first, for what cannot be decoded.
    """
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits: `convert` would cut off all above 255
            image = Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert(mode)
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInputError(f"{where}: cannot be decoded ({error})") from None


def _opened(picture: Picture) -> Image.Image:
    try:
        return Image.open(io.BytesIO(picture.encoded), formats=FORMATS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise BadInputError(f"{picture.where}: is no picture") from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
