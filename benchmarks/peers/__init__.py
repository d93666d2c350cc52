"""The official packages, each in a process and an environment of its own.

The modules `official_*` run there: standard library, numpy, torch and the package itself.
"""
