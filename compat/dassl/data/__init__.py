"""From images on disk to batches."""

from .data_manager import DataManager, DatasetWrapper
