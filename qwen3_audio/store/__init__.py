"""Users, keys, voices, books and kept sound: SQL and files; knows no model and no HTTP."""
