"""Weights in safetensors by name: reading them, checked, and taking an encoder out of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pipeline.errors import BadInputError
from pipeline.files import read_object

FORMAT_VERSION = 1
WEIGHTS, ABOUT = "model.safetensors", "model.json"
MAX_ABOUT_BYTES = 1 << 20
ENCODER = "encoder."


def read_about(folder: Path) -> dict[str, Any]:
    """Return what `model.json` says of an exported model; BadInputError if it is none."""
    path = folder / ABOUT
    try:
        about = read_object(path, MAX_ABOUT_BYTES)
        version, _, _ = (about[k] for k in ("format_version", "weights_sha256", "preparation"))
    except (FileNotFoundError, NotADirectoryError):
        raise BadInputError(
            f"{path}: not found; expected a folder that `outerloop export RUN DIR` made"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"{path}: is no description of a model ({error})") from None
    if version != FORMAT_VERSION:
        raise BadInputError(
            f"{path}: format {version!r:.20}, this version of outerloop reads {FORMAT_VERSION}; "
            "export the run again"
        )
    return about


def trained_on(folder: Path) -> tuple[str, list[str]]:
    """Return data set and class names that an exported model was meta-trained on.

    BadInputError if `model.json` does not say.
    """
    try:
        found = read_about(folder)["trained_on"]
        return str(found["data"]), [str(name) for name in found["classes"]]
    except (KeyError, TypeError):
        raise BadInputError(
            f"{folder / ABOUT}: has no 'trained_on'; export the run again"
        ) from None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of an exported model by name, checked against the hash beside them."""
    about, path = read_about(folder), folder / WEIGHTS
    try:
        if not path.is_file():  # a pipe would be waited for
            raise OSError("is no file")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != about["weights_sha256"]:
            raise BadInputError(f"{path}: is damaged (its SHA-256 is another); export again")
        return safetensors.torch.load(data)
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"{path}: cannot be read ({error}); export the run again") from None


def load_weights(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Copy `tensors` into `model`; BadInputError, `where` first, if they are not its own."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        # torch's first line is a title, the second the first tensor that does not fit.
        reason = " ".join(str(error).splitlines()[1:2]).strip()[:200]
        raise BadInputError(
            f"{where}: holds another network than the section `model` describes: {reason}"
        ) from None


def encoder_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of the encoder in an exported model, by their names in it."""
    tensors = read_weights(folder)
    return {
        name.removeprefix(ENCODER): tensor
        for name, tensor in tensors.items()
        if name.startswith(ENCODER)
    }
