"""Whether a result is right: structure, numbers, and the real runtime."""
