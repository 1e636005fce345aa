"""How fast: this project's computation and the usual one, side by side in one run. `python -m benchmarks --help`."""
