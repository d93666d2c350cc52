"""Makes speech_runs importable for the tests in the folders below."""
