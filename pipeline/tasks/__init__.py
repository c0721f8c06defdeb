"""Task families: what inner loops and learners of episodes train on."""

from pipeline.tasks.alphabets import AlphabetFamily
from pipeline.tasks.classification import ClassificationTask
from pipeline.tasks.family import TaskFamily, sample_meta_batch, task_family

__all__ = [
    "AlphabetFamily",
    "ClassificationTask",
    "TaskFamily",
    "sample_meta_batch",
    "task_family",
]
