"""Self-hosted server for Qwen3-TTS and Qwen3-ASR behind the OpenAI audio API."""

__version__ = "0.1.0"
