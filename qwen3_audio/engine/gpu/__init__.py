"""One graph a frame: what the engine does on a GPU instead of `tts.py` and `asr.py`."""
