"""How fast the library is, measured side by side with the family's baseline. `python -m benchmarks --help`."""
