"""Errors, files, downloads, paths and startup. The lowest layer: imports nothing else of the package."""
