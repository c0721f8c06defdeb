"""Task families: what inner loops train on."""

from pipeline.tasks.classification import ClassificationTask
from pipeline.tasks.family import AlphabetFamily, sample_meta_batch, task_family

__all__ = ["AlphabetFamily", "ClassificationTask", "sample_meta_batch", "task_family"]
