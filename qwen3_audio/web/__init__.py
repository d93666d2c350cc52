"""HTTP in, HTTP out. Knows no torch and no SQL: what needs a model comes through service.py."""
