"""Changes of the schema, one file each, run at the start under a lock."""
