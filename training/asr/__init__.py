"""Pocket-ASR: a Qwen3-ASR checkpoint of 6 MB that really transcribes, trained from nothing."""
