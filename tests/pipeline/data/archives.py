"""Small archives that look like Omniglot's."""

import functools
import io
import zipfile

from PIL import Image, ImageDraw


@functools.cache
def drawing(number, size=(105, 105)):
    """A PNG like Omniglot's: 1 bit, black ink on white."""
    picture = Image.new("1", size, 1)
    ImageDraw.Draw(picture).line([(10, 10 + number), (90, 60)], fill=0, width=3)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def omniglot_entries(wanted, top="images_background"):
    """Entry name → PNG of a whole archive; drawings of a character differ, characters do not."""
    entries = {}
    for alphabet, num_characters in wanted.items():
        for character in range(1, num_characters + 1):
            for number in range(1, 21):
                name = f"{top}/{alphabet}/character{character:02}/0001_{number:02}.png"
                entries[name] = drawing(number)
    return entries


def write_zip(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def write_small_omniglot(folder):
    write_zip(folder / "images_background.zip", omniglot_entries({"Greek": 2}))
    write_zip(
        folder / "images_evaluation.zip", omniglot_entries({"Angelic": 1}, "images_evaluation")
    )
    return folder
