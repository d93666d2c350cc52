"""One command that says what a GPU does with both models: right or wrong, how fast, how large.

Needs torch, safetensors, tokenizers and numpy alone, and no installation: `scripts/gpu-check`.
"""
