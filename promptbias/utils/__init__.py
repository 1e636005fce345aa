"""Errors, files, paths and start-up. The lowest floor: imports nothing else of the package."""
