"""A real server killed at any moment under mixed load, and what is left afterwards."""
