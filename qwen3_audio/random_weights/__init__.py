"""Checkpoints with random weights in the official folder layouts, for demos, tests and benchmarks.

Knows tensor names, shapes and JSON files; imports nothing else of the package.
"""
