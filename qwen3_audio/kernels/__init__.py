"""Decoder stacks beside torch's: in C for CPUs, in Triton for GPUs. Knows no request."""
