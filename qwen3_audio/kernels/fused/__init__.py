"""What a decoder step on a GPU consists of, in Triton and in plain torch. Knows no request."""
