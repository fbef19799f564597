"""Weights to start from or to use: of runs, imported folders and other systems' files."""
