"""Loads what holds for every test; fixtures live in tests/."""

pytest_plugins = ["tests.plugin_programs"]
