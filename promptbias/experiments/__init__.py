"""Runs, their folders and results: one runner for scripts, tables and curves."""
