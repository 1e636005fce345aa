"""Tuned models for other libraries: each target is one file, and each export is loaded again and compared."""
