"""Continuous batching of speech and recognition. Knows no user, no HTTP, no file format."""
