"""In order: v0001, v0002 and so on."""
