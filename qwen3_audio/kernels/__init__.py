"""Decoder stacks in C for the CPU, compiled at first use. Knows torch tensors; knows no request."""
