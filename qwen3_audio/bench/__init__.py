"""`qwen3-audio bench`: what a speech server takes in time and memory, under which load.

Knows HTTP from the client's side; only `engine_target` and `random_checkpoints` lead to torch.
"""
