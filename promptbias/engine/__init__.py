"""Training and testing on Dassl: trainer, checkpoints, run folder, configuration. Makes Dassl importable."""

from promptbias.dassl_host import provide_dassl

provide_dassl()
