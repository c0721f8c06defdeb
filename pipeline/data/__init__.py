"""Data sets of alphabets: decoded once, memory-mapped, augmented as tensors."""

from pipeline.data.alphabets import Alphabet, AlphabetSet
from pipeline.data.registry import DATASETS, load_dataset

__all__ = ["DATASETS", "Alphabet", "AlphabetSet", "load_dataset"]
