"""The part of Dassl's API that the CoOp family of prompt-learning code uses, for machines where Dassl itself is not.

Same module names and behaviour as Dassl 0.6.3 (https://github.com/KaiyangZhou/Dassl.pytorch) wherever a result depends
on it: few-shot draws, learning rates, image transforms, log lines, places of checkpoints. Not here: its trainers and
datasets for domain adaptation, domain generalisation and semi-supervised learning, and its backbones.
"""

__version__ = "0.6.3+compat"
