"""Data sets of alphabets and other classes: decoded once, memory-mapped, augmented as tensors."""

from pipeline.data.alphabets import Alphabet, AlphabetSet
from pipeline.data.registry import DATASETS, image_shape, load_dataset, load_image_classes

__all__ = [
    "DATASETS",
    "Alphabet",
    "AlphabetSet",
    "image_shape",
    "load_dataset",
    "load_image_classes",
]
