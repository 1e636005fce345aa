"""For `python setup.py` of old; everything is in pyproject.toml."""

from setuptools import setup

setup()
