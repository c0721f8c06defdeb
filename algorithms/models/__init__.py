"""Networks that tasks train."""

from algorithms.models.conv import ConvNet

__all__ = ["ConvNet"]
