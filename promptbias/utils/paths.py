"""Where the files of the package are: next to it in a checkout, inside it in an installed wheel."""

import os

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CHECKOUT = os.path.dirname(PACKAGE)
IN_CHECKOUT = os.path.isfile(os.path.join(CHECKOUT, "trainers", "bias_tuning.py"))
HOME = CHECKOUT if IN_CHECKOUT else PACKAGE  # contains configs/, compat/, trainers/, analysis/, datasets/, tiny_clip/
COMPAT = os.path.join(HOME, "compat")
CONFIGS = os.path.join(HOME, "configs")
