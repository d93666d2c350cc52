"""Sound in and out: numpy, PyAV and soxr; knows no model, no user, no HTTP."""
