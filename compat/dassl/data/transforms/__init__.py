"""From an image to the tensor that a model sees."""

from .transforms import INTERPOLATION_MODES, build_transform
