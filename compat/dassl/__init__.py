"""The part of Dassl's API that the CoOp family of prompt learning code uses, for machines without a working Dassl.

Module names, and behaviour wherever results depend on it, are those of Dassl 0.6.3
(https://github.com/KaiyangZhou/Dassl.pytorch): few-shot draws, learning rates, image transforms, log lines, checkpoint
paths. Its backbones, and its trainers and datasets for domain adaptation, domain generalisation and semi-supervised
learning, are not included.
"""

__version__ = "0.6.3+compat"
